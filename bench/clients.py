"""Clients of `serve` that leave, and clients that stop reading.

- From the moment a client closes its socket until its async handler has stopped: the 99th
  percentile of 1,000, on one loop with the server. The peer cancels a bare task.
- What a client that reads nothing makes the server's memory grow by, while its stream of values of
  1 KiB goes on for as long as it is let: one more such client per block, none of them leaves. The
  peer awaits `drain()` after each value.

    python bench/clients.py [--save]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
import time
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec
import uvloop
from harness import Row, paired, paired_latencies, save
from ndjson import PEER, start_servers
from peers.disconnect import Bare

from gen_worker import RequestContext, inference_function
from gen_worker.runtime import Engine
from gen_worker.runtime.ndjson.address import UnixAddress
from gen_worker.runtime.ndjson.claim import claim
from gen_worker.runtime.ndjson.server import Server
from gen_worker.spec import specs_of
from gen_worker.testing import fake_ports

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator

    Paths = tuple[str, str]

LEAVES = 72
"""Per block; 14 blocks make a thousand."""
FRAME = b'{"function":"wait","request_id":"r"}\n'
KIB = 1024


class Nothing(msgspec.Struct):
    pass


class Stopwatch:
    """When the handler began and when it had stopped."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.stopped = asyncio.Event()
        self.stopped_at = 0.0

    async def handler(self) -> None:
        self.began.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.stopped_at = perf_counter()
            self.stopped.set()

    async def leave(self, path: str) -> float:
        """Connect, make the handler begin, close, and return the latency in ms."""
        self.began.clear()
        self.stopped.clear()
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, path)
            await loop.sock_sendall(client, FRAME)
            await self.began.wait()
            begin = perf_counter()
        await self.stopped.wait()
        return (self.stopped_at - begin) * 1e3


@contextlib.asynccontextmanager
async def start_waiting(folder: str, mine: Stopwatch, theirs: Stopwatch) -> AsyncIterator[Paths]:
    """Serve both handlers on this loop; gives the paths of the sockets, ours first."""

    @inference_function
    async def wait(ctx: RequestContext, payload: Nothing) -> Nothing:
        await mine.handler()
        return payload

    engine = Engine(specs_of(wait), fake_ports(Path(folder)))
    server = Server(engine)
    listening = claim(UnixAddress(os.path.join(folder, "ours")))
    await server.listen(listening.listener)
    path = os.path.join(folder, "peer")
    bare = await asyncio.get_running_loop().create_unix_server(lambda: Bare(theirs.handler), path)
    yield str(listening.address), path
    bare.close()
    await server.close()
    await engine.close()
    listening.release()


def leaving(folder: str) -> Row:
    mine, theirs = Stopwatch(), Stopwatch()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = contextlib.AsyncExitStack()
        servers = start_waiting(folder, mine, theirs)
        ours, peer = runner.run(stack.enter_async_context(servers))
        row = paired_latencies(
            "client leaves -> async handler stopped",
            runner.get_loop(),
            lambda _number: mine.leave(ours),
            lambda _number: theirs.leave(peer),
            peer_source="bench/peers/disconnect.py",
            per_block=LEAVES,
            most_ms=10,
            stretch_ms=3,
        )
        runner.run(stack.aclose())
    return row


class Stalling:
    """Clients of one server process that ask for more than they will ever read."""

    def __init__(self, process: subprocess.Popen[bytes], path: str) -> None:
        self._statm = f"/proc/{process.pid}/statm"
        self._stat = f"/proc/{process.pid}/stat"
        self._path = path
        self.clients: list[socket.socket] = []

    def one_more(self) -> float:
        """Return by how many MiB the process has grown."""
        before = self._resident_mib()
        client = socket.socket(socket.AF_UNIX)
        client.connect(self._path)
        payload = {"text": "x" * KIB, "count": 10**9}
        frame = {"function": "stream_async", "payload": payload, "stream": True}
        client.sendall(json.dumps(frame).encode() + b"\n")
        self.clients.append(client)
        self._wait_until_still()
        return self._resident_mib() - before

    def _resident_mib(self) -> float:
        with open(self._statm, encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / KIB / KIB

    def _ticks(self) -> int:
        with open(self._stat, encoding="ascii") as file:
            return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))

    def _wait_until_still(self) -> None:
        """Wait until the server works no more: 0.1 s without a tick of CPU time."""
        before = -1
        while (ticks := self._ticks()) != before:
            before = ticks
            time.sleep(0.1)


def stalling(folder: str) -> Row:
    with start_servers(folder) as (ours, peer):
        mine, theirs = Stalling(*ours), Stalling(*peer)
        row = paired(
            "memory per client that stops reading",
            mine.one_more,
            theirs.one_more,
            unit="MiB",
            peer_source=PEER,
            goal="<= 4 MiB",
            passes=lambda ours, _peer, _ratio: ours <= 4,
        )
    for client in (*mine.clients, *theirs.clients):  # the servers are gone: nobody complains
        client.close()
    return row


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        save("clients", [leaving(folder), stalling(folder)])


if __name__ == "__main__":
    main()
