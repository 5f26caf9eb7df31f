"""Clients that leave, that do not read, and a host that stops."""

from __future__ import annotations

import random
import socket
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from gen_worker.runtime import Engine, EngineLimits
from gen_worker.runtime.http import HttpApp, LocalBackend
from gen_worker.testing import fake_ports

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Host, RunHost

STREAM = "accept: text/event-stream"


@pytest.mark.parametrize(("function", "word"), [("hold", "holding"), ("block", "blocking")])
@pytest.mark.parametrize("headers", [(), (STREAM,)])
def test_a_client_that_leaves_cancels_its_call(
    host: Host, function: str, word: str, headers: tuple[str, ...]
) -> None:
    peer = host.post(f"/v1/request/{function}", b"{}", *headers)
    host.stage.expect(word)
    peer.close()
    host.stage.expect("disconnect")
    host.settles()


def test_a_client_that_only_ends_its_input_leaves_too(host: Host) -> None:
    peer = host.post("/v1/request/hold")
    host.stage.expect("holding")
    peer.shutdown(socket.SHUT_WR)
    host.stage.expect("disconnect")
    peer.close()


def test_a_client_that_leaves_in_the_middle_of_its_body_starts_nothing(host: Host) -> None:
    before = host.engine.statistics()
    peer = host.talk(
        b"POST /v1/request/hold HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
    )
    peer.close()
    host.settles()
    assert host.engine.statistics().canceled == before.canceled
    assert host.stage.said.empty()


def test_a_reused_connection_cancels_the_call_that_runs(host: Host) -> None:
    peer = host.post("/v1/request/echo")
    assert b'"success":true' in peer.recv(65536)
    peer.sendall(b"POST /v1/request/hold HTTP/1.1\r\nhost: localhost\r\n\r\n")
    host.stage.expect("holding")
    peer.close()
    host.stage.expect("disconnect")


def test_a_storm_of_departures_leaves_nothing_behind(tmp_path: Path, run_host: RunHost) -> None:
    limits = EngineLimits(max_threads=4, max_tasks=8)
    with run_host(tmp_path, engine=limits) as host, host.client() as client:
        draw = random.Random(7)
        peers = []
        for _ in range(200):
            path = draw.choice(["hold", "block", "echo", "count"])
            headers = draw.choice([(), (STREAM,)])
            body = b'{"count":100000}' if path == "count" and headers else b"{}"
            peers.append(host.post(f"/v1/request/{path}", body, *headers))
            if draw.random() < 0.7:
                peers.pop(draw.randrange(len(peers))).close()
        for peer in peers:
            peer.close()
        for _ in range(20):  # every slot and thread becomes free again
            assert client.post("/v1/request/echo", json={"text": "a"}).json()["success"]
        host.settles()  # those before it have been accepted by now
        figures = host.engine.statistics()
        assert (figures.running, figures.queued, figures.stuck_threads) == (0, 0, 0)
        assert not host.app.active_calls


def test_a_client_that_does_not_read_holds_its_stream_back(
    tmp_path: Path, run_host: RunHost
) -> None:
    with run_host(tmp_path) as host:
        peer = host.post(
            "/v1/request/count", b'{"text":"%b","count":100000}' % (b"x" * 1000), STREAM
        )
        seen = -1
        while seen != host.stage.yielded or seen < 100:  # until it stands still
            seen = host.stage.yielded
            time.sleep(0.1)
        assert seen < 50_000, "100 MB would be in memory"
        received = 0
        while received < 30_000_000:
            received += len(peer.recv(1 << 20))
        assert host.stage.yielded > seen, "and it goes on once it is read"
        peer.close()
        host.settles()


def test_a_stop_lets_streams_end_and_refuses_new_calls(tmp_path: Path, run_host: RunHost) -> None:
    with run_host(tmp_path, drain_s=60.0) as host:
        idle = host.talk()
        peer = host.post("/v1/request/count-slowly", b'{"count":3}', STREAM)
        host.stage.expect("yielded 0")
        with host.client() as client:
            body = {"function": "gate", "payload": {}}
            assert client.post("/v1/requests", json=body).status_code == 202
        host.stage.expect("at the gate")
        host.begin_stop()
        assert idle.recv(1) == b"", "idle connections are closed"
        assert host.app.is_draining
        host.stage.go.set()
        data = b"".join(iter(lambda: peer.recv(65536), b""))
        assert data.count(b"event: delta") == 3
        assert b"event: result" in data
        host.stage.gate.set()
        host.wait()
        with pytest.raises(ConnectionRefusedError):
            host.talk()
        idle.close()
        peer.close()


async def test_while_it_drains_a_host_says_so(tmp_path: Path) -> None:
    engine = Engine([], fake_ports(tmp_path))
    app = HttpApp(LocalBackend(engine))
    app.drain()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["draining"])
        assert (await client.get("/healthz")).status_code == 200
        found = await client.post("/v1/warmup/echo")
        assert found.status_code == 404
    app.close()
    await engine.close()


@pytest.mark.parametrize("is_known", [False, True])
def test_what_does_not_end_is_canceled_after_the_drain(
    tmp_path: Path, run_host: RunHost, is_known: bool
) -> None:
    with run_host(tmp_path, drain_s=0.2) as host:
        if is_known:  # such calls have no task of their own
            host.post("/v1/request/hold").close()
            host.stage.expect("holding", "disconnect")
        peer = host.post("/v1/request/hold")
        host.stage.expect("holding")
        host.begin_stop()
        host.stage.expect("shutdown")
        host.wait()
        peer.close()


def wait_until_closed(host: Host) -> None:
    """Wait until nobody can connect any more; those who are there have been told by then."""
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        try:
            host.talk().close()
        except ConnectionError:
            return
        time.sleep(0.005)
    raise AssertionError("the host still accepts connections")


def test_a_call_under_way_is_answered_before_the_end(tmp_path: Path, run_host: RunHost) -> None:
    with run_host(tmp_path, drain_s=60.0) as host, host.client() as client:
        host.stage.gate.set()
        assert client.post("/v1/request/gate").status_code == 200
        host.stage.expect("at the gate")
        host.stage.gate.clear()
        peer = host.post("/v1/request/gate")
        host.stage.expect("at the gate")
        host.begin_stop()
        wait_until_closed(host)
        host.stage.gate.set()
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
        assert b"\r\nconnection: close\r\n" in answer
        assert b'"success":true' in answer
        host.wait()
        peer.close()


def test_a_handler_that_does_not_stop_breaks_the_hosts_health(
    tmp_path: Path, run_host: RunHost
) -> None:
    with run_host(tmp_path, engine=EngineLimits(grace_s=0.05)) as host, host.client() as client:
        peer = host.post("/v1/request/gate")
        host.stage.expect("at the gate")
        peer.close()
        host.settles()
        found = client.get("/healthz")
        assert (found.status_code, found.json()["ok"]) == (503, False)
        assert client.get("/readyz").status_code == 503
        host.stage.gate.set()
        while client.get("/healthz").status_code != 200:
            pass
