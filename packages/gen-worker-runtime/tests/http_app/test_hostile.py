"""What nobody should send: it is refused, and the host goes on."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import TYPE_CHECKING

import httpx
import pytest

from gen_worker.runtime.http import HttpOptions, OneToken, open_listener
from gen_worker.runtime.http.exchange import respond
from gen_worker.runtime.http.origins import is_local_host
from gen_worker.runtime.ndjson.address import TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Host, RunHost, RunServer
    from gen_worker.runtime.http.exchange import Receive, Scope, Send

TIMEOUT_S = 30.0
MIB = 1024 * 1024
CHUNKED = b"POST /v1/request/echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


def status_of(peer: socket.socket) -> int:
    with peer, peer.makefile("rb") as file:
        line = file.readline()
        return int(line.split(b" ")[1]) if line else 0


def works(host: Host) -> bool:
    with host.client() as client:
        return client.post("/v1/request/echo", json={"text": "a"}).status_code == 200


# -- heads -----------------------------------------------------------------------------------------


def test_a_flood_of_headers_is_refused(host: Host) -> None:
    many = b"".join(b"x-%d: y\r\n" % index for index in range(200))
    assert status_of(host.talk(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + many)) == 431
    assert works(host)


def test_a_head_is_measured_as_a_whole(host: Host) -> None:
    start = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: "
    with socket.create_connection(("127.0.0.1", host.port), TIMEOUT_S) as peer:
        for size, status in ((60_000, 200), (66_000, 431)):
            peer.sendall(start + b"y" * size + b"\r\n\r\n")
            answer = HTTPResponse(peer)
            answer.begin()
            assert answer.status == status
            answer.read()
    assert works(host)


@pytest.mark.parametrize(
    "start",
    [
        b"GET /healthz HTTP/1.1\r\nx: ",
        b"GET /",
        b"GET /healthz HTTP/1.1\r\n",
        CHUNKED + b"0\r\nx: ",
        CHUNKED + b"2;x=",
    ],
)
def test_a_head_without_end_is_refused(host: Host, start: bytes) -> None:
    peer = host.talk(start)
    try:
        for _ in range(64):
            peer.sendall(b"y" * MIB)
    except OSError:  # closed meanwhile, as it should be
        peer.close()
    else:
        pytest.fail("64 MiB of head were taken")
    assert works(host)


def test_a_trailer_says_nothing_of_the_request(host: Host) -> None:
    for named, late, status in ((b"localhost", b"evil", 200), (b"evil", b"localhost", 403)):
        data = CHUNKED.replace(b"localhost", named) + b"2\r\n{}\r\n0\r\nhost: %b\r\n\r\n" % late
        assert status_of(host.talk(data)) == status


def test_nothing_is_put_into_an_answer_that_has_begun(host: Host) -> None:
    head = b"accept: text/event-stream\r\ncontent-length: 2\r\n\r\n{}"
    start = b"POST /v1/request/count-slowly HTTP/1.1\r\nhost: localhost\r\n"
    with host.talk(start + head) as peer, peer.makefile("rb") as file:
        host.stage.expect("yielded 0")
        assert b"event: delta\n" in iter(file.readline, b"")
        peer.sendall(b"\0\r\n\r\n")
        rest = file.read()
    host.stage.go.set()
    assert b"data: " in rest
    assert b"HTTP/1.1" not in rest
    assert works(host)


def test_bytes_that_are_no_http_are_refused(host: Host) -> None:
    assert status_of(host.talk(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")) == 400
    assert (
        status_of(host.talk(b"POST /v1/request/echo HTTP/1.1\r\ncontent-length: x\r\n\r\n")) == 400
    )
    assert status_of(host.talk(CHUNKED + b"zz\r\n")) == 400
    assert works(host)


@contextmanager
def impatient_server(
    run_server: RunServer, *starts: bytes
) -> Iterator[tuple[list[socket.socket], list[str]]]:
    """Run a server that waits 0.3 s for a request; gives its clients, and how each request ended.

    Args:
        run_server: The fixture.
        *starts: What each client has said before anybody is accepted: it may be slow.
    """
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        heard.append(message["type"])

    listener = open_listener(TcpAddress("127.0.0.1", 0))
    peers = [socket.create_connection(listener.getsockname(), TIMEOUT_S) for _ in starts]
    for peer, start in zip(peers, starts, strict=True):
        peer.sendall(start)
    with run_server(app, listener, patience_s=0.3):
        try:
            yield peers, heard
        finally:
            for peer in peers:
                peer.close()


def test_a_request_that_stops_coming_is_closed(run_server: RunServer) -> None:
    body = b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nx"
    with impatient_server(run_server, b"", b"GET / HT", body) as (peers, heard):
        assert [status_of(peer) for peer in peers] == [408, 408, 408]
    assert heard == ["http.disconnect"]


def test_a_head_that_comes_byte_by_byte_is_closed_too(run_server: RunServer) -> None:
    with impatient_server(run_server, b"GET / HTTP/1.1\r\nx: ") as ((peer,), heard):
        peer.settimeout(0.005)
        for _ in range(10_000):
            try:
                data = peer.recv(1000)
                break
            except TimeoutError:
                peer.sendall(b"y")
        else:
            pytest.fail("it was listened to for a minute")
        assert data.startswith(b"HTTP/1.1 408 ")
    assert heard == []


def test_an_answer_that_is_not_read_is_not_kept_forever(run_server: RunServer) -> None:
    body = b"x" * (64 * MIB)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, body)

    listener = open_listener(TcpAddress("127.0.0.1", 0))
    with run_server(app, listener, patience_s=0.3, idle_s=0.01) as server:
        with socket.create_connection(listener.getsockname(), TIMEOUT_S) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert peer.recv(9) == b"HTTP/1.1 "
            ends_at = time.monotonic() + TIMEOUT_S
            while server._server.server_state.connections:
                assert time.monotonic() < ends_at, "its rest is kept"
                time.sleep(0.01)


def test_clients_that_vanish_are_noticed() -> None:
    with open_listener(TcpAddress("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                if hasattr(socket, "TCP_KEEPIDLE"):
                    idle_s = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                    assert idle_s == 30


# -- bodies ----------------------------------------------------------------------------------------


def test_a_body_that_is_too_long_is_refused_before_it_is_read(host: Host) -> None:
    for size in (256 * MIB + 1, 10**30):
        head = (
            f"POST /v1/request/echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
        )
        assert status_of(host.talk(head.encode())) in (400, 413)
    assert works(host)


def test_a_body_that_turns_out_too_long_is_refused(tmp_path: Path, run_host: RunHost) -> None:
    options = HttpOptions(max_body_bytes=MIB)
    with run_host(tmp_path, options) as host, host.client() as client:

        def endless() -> object:
            for _ in range(64):
                yield b"x" * MIB

        for path in ("/v1/request/echo", "/v1/requests", "/v1/models/prefetch", "/v1/files"):
            for content in (b"x" * (MIB + 1), endless()):
                try:
                    found = client.post(path, content=content)  # type: ignore[arg-type]
                except httpx.WriteError:  # refused while it was still being sent
                    continue
                assert (found.status_code, found.json()["error"]) == (413, "body_too_large")
        assert works(host)
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_large_body_within_the_limit_arrives(host: Host) -> None:
    with host.client() as client:
        text = "x" * (8 * MIB)
        assert client.post("/v1/request/echo", json={"text": text}).json()["output"]["text"] == text


# -- who may ask -----------------------------------------------------------------------------------


def test_every_request_needs_the_token(tmp_path: Path, run_host: RunHost) -> None:
    with (
        run_host(tmp_path, HttpOptions(credentials=OneToken("let me in"))) as host,
        host.client() as client,
    ):
        for given in ("", "Bearer", "Bearer wrong", "Basic let me in", "Bearer \xff"):
            headers = [(b"authorization", given.encode("latin-1"))] if given else []
            for method, path in (
                ("POST", "/v1/request/echo"),
                ("POST", "/v1/requests"),
                ("GET", "/v1/functions"),
                ("GET", "/metrics"),
                ("GET", "/v1/files/jobs/x"),
                ("GET", "/v1/requests/x/events"),
                ("GET", "/nowhere"),
            ):
                found = client.request(method, path, headers=headers)
                assert found.status_code == 401, path
                assert found.headers["www-authenticate"] == "Bearer"
                assert "let me in" not in found.text
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        right = {"authorization": "bearer let me in", "origin": "http://elsewhere"}
        assert client.post("/v1/request/echo", headers=right).status_code == 200


def test_web_pages_of_others_are_not_answered(host: Host) -> None:
    own = f"http://127.0.0.1:{host.port}"
    with host.client() as client:
        for origin in ("http://elsewhere", "null", "http://127.0.0.1", f"{own}.evil", "http://["):
            found = client.post("/v1/request/echo", headers={"origin": origin})
            assert (found.status_code, found.json()["error"]) == (403, "forbidden_origin")
        assert client.post("/v1/request/echo", headers={"origin": own}).status_code == 200
        for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example"):
            found = client.get("/v1/functions", headers={"host": f"{name}:{host.port}"})
            assert (found.status_code, found.json()["error"]) == (403, "forbidden_host")
        for name in ("localhost", "[::1]:80", "a.localhost:1"):
            assert client.get("/v1/functions", headers={"host": name}).status_code == 200


@pytest.mark.parametrize(
    ("name", "is_local"),
    [
        (b"localhost", True),
        (b"LOCALHOST.:80", True),
        (b"127.1.2.3", True),
        (b"[::1]", True),
        (b"", True),
        (b"10.0.0.1", False),
        (b"user@localhost", False),
        (b"localhost/x", False),
        (b"[::ffff:8.8.8.8]", False),
        (b"\xff", False),
    ],
)
def test_which_names_are_this_machine(name: bytes, is_local: bool) -> None:
    assert is_local_host(name) is is_local
