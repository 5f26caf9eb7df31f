"""The listener for scrapes and probes answers three paths and tells the truth."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gen_worker.errors import SettingsError
from gen_worker.runtime.ndjson.claim import ListenError
from gen_worker.runtime.telemetry import (
    Metrics,
    Probes,
    load_telemetry_settings,
    open_metrics_server,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Health:
    def __init__(self) -> None:
        self.is_healthy = self.is_ready = True


@asynccontextmanager
async def listening(path: Path, health: Health) -> AsyncIterator[str]:
    probes = Probes(
        Metrics().exposition,
        trouble=lambda: "" if health.is_healthy else "it is broken",
        unready=lambda: "" if health.is_ready else "it is leaving",
    )
    server = open_metrics_server(load_telemetry_settings().metrics_addr, probes)
    ready = asyncio.Event()
    task = asyncio.create_task(server.serve(ready.set))
    await ready.wait()
    try:
        yield str(path)
    finally:
        server.stop()
        await task


async def get(path: str, target: str, method: str = "GET") -> tuple[int, str, bytes]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "metrics.sock"
    monkeypatch.setenv("WORKER_METRICS_ADDR", f"unix://{path}")
    return path


@pytest.mark.claims("WORKER_METRICS_ADDR")
async def test_figures_are_served(path: Path) -> None:
    async with listening(path, Health()) as address:
        status, head, body = await get(address, "/metrics")
        assert status == 200
        assert "content-type: text/plain; version=0.0.4" in head
        assert b"# TYPE gen_worker_requests_total counter" in body
        status, _, body = await get(address, "/metrics", "HEAD")
        assert (status, body) == (200, b"")


async def test_probes_tell_the_truth(path: Path) -> None:
    health = Health()
    async with listening(path, health) as address:
        assert (await get(address, "/healthz"))[0] == 200
        assert (await get(address, "/readyz"))[0] == 200
        health.is_ready = False
        assert (await get(address, "/healthz"))[0] == 200
        status, _, reason = await get(address, "/readyz")
        assert (status, reason) == (503, b"it is leaving\n")
        health.is_healthy = False
        status, _, reason = await get(address, "/healthz")
        assert (status, reason) == (503, b"it is broken\n")


async def test_there_is_nothing_else(path: Path) -> None:
    async with listening(path, Health()) as address:
        assert (await get(address, "/"))[0] == 404
        status, head, _ = await get(address, "/metrics", "POST")
        assert status == 405
        assert "allow: GET, HEAD" in head


def test_a_port_alone_means_this_machine_and_the_log_says_which(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    probes = Probes(bytes, trouble=str, unready=str)
    server = open_metrics_server(":0", probes)
    host, port = server._listener.getsockname()
    assert host == "127.0.0.1"
    assert f"figures are on http://127.0.0.1:{port}" in caplog.text
    server._listener.close()


@pytest.mark.parametrize("address", ["nowhere", "host:port", "1.2.3.4:99999"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises((SettingsError, ListenError), match=address):
        open_metrics_server(address, Probes(bytes, trouble=str, unready=str))


def test_a_taken_address_names_the_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"^WORKER_METRICS_ADDR '{address}'.*in use"):
            open_metrics_server(address, Probes(bytes, trouble=str, unready=str))
