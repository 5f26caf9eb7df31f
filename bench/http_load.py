"""One client's load on a site: requests over kept connections, or one stream of items."""

from __future__ import annotations

import asyncio
import re
import socket
import statistics
import time
from typing import NamedTuple, cast

import uvloop

BLOCK_S = 0.3
STREAM_ITEMS = 20_000
BODY = b'{"text":"hello world"}'
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Site(NamedTuple):
    port: int
    path: str
    body: bytes = BODY
    status: bytes = b"200"


class _Client(asyncio.Protocol):
    """Sends a request, waits for the whole answer, sends the next."""

    def __init__(self, load: _Load) -> None:
        self.load = load
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = LENGTH.search(self.buffer)
        assert length is not None, self.buffer
        if len(self.buffer) < head + 4 + int(length[1]):
            return
        if not self.buffer.startswith(b"HTTP/1.1 " + self.load.site.status):
            self.load.rejected += 1
        self.buffer = b""
        now = time.perf_counter()
        self.load.latencies.append(now - self.sent_at)
        if now >= self.load.end:
            self.transport.close()
            self.load.left()
        else:
            self._send()


class _Load:
    """One block of requests over `clients` kept connections."""

    def __init__(self, site: Site, clients: int) -> None:
        self.request = (
            b"POST %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b"
            % (site.path.encode(), site.port, len(site.body), site.body)
        )
        self.site, self.clients = site, clients
        self.active = clients
        self.latencies: list[float] = []
        self.rejected = 0

    def left(self) -> None:
        self.active -= 1
        if self.active == 0:
            self.done.set_result(None)

    async def run(self) -> float:
        """Return the requests per second."""
        loop = asyncio.get_running_loop()
        self.done = loop.create_future()
        start = time.perf_counter()
        self.end = start + BLOCK_S
        for _ in range(self.clients):
            await loop.create_connection(lambda: _Client(self), "127.0.0.1", self.site.port)
        await self.done
        return len(self.latencies) / (time.perf_counter() - start)


def rate(site: Site, clients: int, rejections: list[int]) -> float:
    """Return requests per second, and note how many were not answered with 200."""
    load = _Load(site, clients)
    rate = uvloop.run(load.run())
    rejections.append(load.rejected)
    return rate


def p50_us(site: Site) -> float:
    """Return the median latency of one client, in microseconds."""
    load = _Load(site, 1)
    uvloop.run(load.run())
    return statistics.median(load.latencies) * 1e6


def items_per_s(site: Site, accept: bytes = b"") -> float:
    """Return items per second of one stream; `accept` is a header line that asks for it."""
    body = b'{"text":"tok ","count":%d}' % STREAM_ITEMS
    request = b"POST %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n%bcontent-length: %d\r\n\r\n%b" % (
        site.path.encode(),
        site.port,
        accept,
        len(body),
        body,
    )
    with socket.create_connection(("127.0.0.1", site.port)) as peer:
        start = time.perf_counter()
        peer.sendall(request)
        items, tail = 0, b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = peer.recv(1 << 20)
            assert data, tail
            whole = tail[-11:] + data
            items += whole.count(b"event: delta") - tail[-11:].count(b"event: delta")
            tail = (tail + data)[-64:]
        elapsed = time.perf_counter() - start
    assert items == STREAM_ITEMS, items
    return items / elapsed
