"""`gen-worker serve` against a hand-written asyncio server, request for request.

Both run at once, each in its own process; one driver loads them in alternating blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import uvloop

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Row, paired, save, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    Block = Callable[[], Coroutine[Any, Any, float]]
    Server = tuple[subprocess.Popen[bytes], str]

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = "bench/peers/ndjson_asyncio.py"
BLOCK_S = 0.3
STREAM_ITEMS = 20_000


class _Client(asyncio.Protocol):
    """Sends a frame, waits for its line, sends the next; or opens a new connection for each."""

    def __init__(self, load: _Load) -> None:
        self.load = load
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.load.frame)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.buffer.endswith(b"\n"):
            return
        assert b'"ok":true' in self.buffer, self.buffer
        self.buffer = b""
        self.load.count += 1
        if self.load.is_over():
            self.transport.close()
            self.load.left()
        elif self.load.is_kept:
            self.transport.write(self.load.frame)
        else:
            self.transport.close()
            self.load.spawn()


class _Load:
    """One block of requests over `clients` connections."""

    def __init__(self, path: str, function: str, clients: int, *, is_kept: bool, ours: bool):
        payload = {"text": "hello world"}
        frame: dict[str, object] = {"request_id": None, "function": function, "payload": payload}
        if ours and is_kept:
            frame["keep_alive"] = True
        self.frame = json.dumps(frame).encode() + b"\n"
        self.path, self.clients, self.is_kept = path, clients, is_kept
        self.count = 0
        self.active = clients
        self.tasks: set[asyncio.Task[object]] = set()

    def is_over(self) -> bool:
        return time.perf_counter() >= self.end

    def spawn(self) -> None:
        task = asyncio.ensure_future(
            asyncio.get_running_loop().create_unix_connection(lambda: _Client(self), self.path)
        )
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def left(self) -> None:
        self.active -= 1
        if self.active == 0:
            self.done.set_result(None)

    async def run(self) -> float:
        self.done = asyncio.get_running_loop().create_future()
        start = time.perf_counter()
        self.end = start + BLOCK_S
        for _ in range(self.clients):
            self.spawn()
        await self.done
        return self.count / (time.perf_counter() - start)


async def _load(path: str, function: str, clients: int, *, is_kept: bool, ours: bool) -> float:
    return await _Load(path, function, clients, is_kept=is_kept, ours=ours).run()


async def _stream(path: str, function: str) -> float:
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 24)
    payload = {"text": "tok ", "count": STREAM_ITEMS}
    frame = {"request_id": "s", "function": function, "payload": payload, "stream": True}
    start = time.perf_counter()
    writer.write(json.dumps(frame).encode() + b"\n")
    lines = 0
    tail = b""
    while b'"done":true' not in tail:
        data = await reader.read(1 << 20)
        assert data, tail
        lines += data.count(b"\n")
        tail = (tail + data)[-64:]
    elapsed = time.perf_counter() - start
    writer.close()
    assert lines == STREAM_ITEMS + 2, lines
    return STREAM_ITEMS / elapsed


def _rows(ours: str, peer: str) -> list[Row]:
    rows = []

    def add(name: str, mine: Block, theirs: Block, bar: float, stretch: float) -> None:
        rows.append(
            paired(
                name,
                lambda: uvloop.run(mine()),
                lambda: uvloop.run(theirs()),
                unit="1/s",
                peer_source=PEER,
                goal=f"at least {bar:g}x (stretch {stretch:g})",
                passes=lambda _a, _b, ratio: ratio >= bar,
            )
        )

    for function in ("echo_async", "echo_sync"):
        for is_kept in (True, False):
            for clients in (1, 8, 64):
                # A hop to a thread and back is most of a sync call, and 8 clients hide least of it.
                is_hard = is_kept and clients == 8
                sync_bars = (0.5, 0.5) if is_hard else (0.6, 0.75)
                bars = (0.8, 1.0) if function == "echo_async" else sync_bars
                kind = "kept" if is_kept else "fresh"
                add(
                    f"ndjson {function} {kind} c{clients}",
                    partial(_load, ours, function, clients, is_kept=is_kept, ours=True),
                    partial(_load, peer, function, clients, is_kept=is_kept, ours=False),
                    *bars,
                )
    for function in ("stream_async", "stream_sync"):
        add(
            f"ndjson {function} 1 client, items",
            partial(_stream, ours, function),
            partial(_stream, peer, "stream_async"),
            1.0,
            4.0,
        )
    return rows


@contextlib.contextmanager
def start_servers(folder: str) -> Iterator[tuple[Server, Server]]:
    """Run `gen-worker serve` and the peer, each with its socket below `folder`."""
    project = os.path.join(HERE, "echo")
    ours, peer = os.path.join(folder, "ours.sock"), os.path.join(folder, "peer.sock")
    serve = [sys.executable, "-m", "gen_worker.cli", "serve", "--no-stdin", "--socket", ours]
    config = ["--config", os.path.join(project, "endpoint.toml")]
    plain = [sys.executable, os.path.join(HERE, "peers", "ndjson_asyncio.py"), peer, project]
    quiet = subprocess.DEVNULL
    with (
        subprocess.Popen(serve + config, stdout=quiet, stderr=quiet) as mine,
        subprocess.Popen(plain) as theirs,
    ):
        try:
            for path in (ours + ".json", peer):
                wait_until(partial(os.path.exists, path), f"at {path}")
            yield (mine, ours), (theirs, peer)
        finally:
            mine.terminate()
            theirs.terminate()


def main() -> None:
    """Print one row per load, and with `--save` keep them."""
    with tempfile.TemporaryDirectory() as folder, start_servers(folder) as (ours, peer):
        save("ndjson", _rows(ours[1], peer[1]))


if __name__ == "__main__":
    main()
