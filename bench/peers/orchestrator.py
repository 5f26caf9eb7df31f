"""The orchestrator's end for `worker.py`: loads two workers that are connected at once.

It answers nothing by itself. What it measures is one block: figures of one worker, over some
requests or one stream.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio
import msgspec

from gen_worker.runtime.wire import (
    CHANNEL_OPTIONS,
    METHODS,
    JobRequest,
    JobResult,
    Registration,
    StreamDone,
    TokenDelta,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_S = 0.4
TEXT = "tok "


class Load(NamedTuple):
    """Requests of one block."""

    p50_ms: float
    per_s: float
    cpu_us: float
    """Of the worker's process, for each request."""


class Streamed(NamedTuple):
    """One stream."""

    messages_per_s: float
    items_per_s: float
    first_ms: float


class Worker:
    """One worker that is connected."""

    def __init__(self) -> None:
        self.pid = 0
        self.connected = asyncio.Event()
        self.commands: deque[bytes] = deque()
        self.news = asyncio.Event()
        self.answer: Callable[[JobResult], None] = _ignore
        self.deltas = self.texts = 0
        self.first_delta_at = 0.0
        self.is_whole = asyncio.Event()

    def send(self, function: str, number: int, payload: dict[str, Any]) -> None:
        """Have a job written."""
        request = JobRequest(
            request_id=f"{function}-{number}",
            function=function,
            payload=msgspec.msgpack.encode(payload),
        )
        self.commands.append(encode(request))
        self.news.set()

    async def write(self, context: Any) -> None:
        while True:
            while self.commands:
                await context.write(self.commands.popleft())
            self.news.clear()
            await self.news.wait()

    def heard(self, data: bytes) -> None:
        message = decode(data)
        if isinstance(message, JobResult):
            assert message.success, message
            self.answer(message)
        elif isinstance(message, TokenDelta):
            if not self.deltas:
                self.first_delta_at = time.perf_counter()
            self.deltas += 1
            self.texts += len(message.delta_text)
        elif isinstance(message, StreamDone):
            self.is_whole.set()

    def cpu_s(self) -> float:
        """Return the processor time of all its threads."""
        spent_ns = 0
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{thread}/schedstat", encoding="ascii") as file:
                spent_ns += int(file.read().split()[0])
        return spent_ns / 1e9

    def resident_mib(self) -> float:
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def _ignore(result: JobResult) -> None:
    """Nobody waits for it."""


class Orchestrator:
    """Workers by their ids."""

    def __init__(self) -> None:
        self.workers = {"ours": Worker(), "peer": Worker()}
        self._numbers = iter(range(10**9))

    async def start(self) -> str:
        """Serve, and return the address."""
        self._server = grpc.aio.server(options=CHANNEL_OPTIONS)
        self._server.add_generic_rpc_handlers((_Methods(self._serve),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(None)

    async def _serve(self, role: str, first: Any, context: Any) -> None:
        registration = decode(await context.read())
        assert isinstance(registration, Registration)
        worker = self.workers[registration.resources.worker_id]
        writer = asyncio.create_task(worker.write(context)) if role == "control" else None
        if role == "events":
            worker.connected.set()
        try:
            while isinstance(data := await context.read(), bytes):
                worker.heard(data)
        finally:
            if writer is not None:
                writer.cancel()

    async def load(self, name: str, function: str, in_flight: int) -> Load:
        """Keep so many requests under way for one block."""
        worker = self.workers[name]
        done = asyncio.get_running_loop().create_future()
        sent: dict[str, float] = {}
        took: list[float] = []
        cpu_s = worker.cpu_s()
        began = time.perf_counter()

        def send() -> None:
            number = next(self._numbers)
            sent[f"{function}-{number}"] = time.perf_counter()
            worker.send(function, number, {"text": "hello world"})

        def answered(result: JobResult) -> None:
            now = time.perf_counter()
            took.append(now - sent.pop(result.request_id))
            if now - began < BLOCK_S:
                send()
            elif not sent and not done.done():
                done.set_result(None)

        worker.answer = answered
        for _ in range(in_flight):
            send()
        await done
        elapsed_s = time.perf_counter() - began
        cpu_us = (worker.cpu_s() - cpu_s) / len(took) * 1e6
        return Load(statistics.median(took) * 1e3, len(took) / elapsed_s, cpu_us)

    async def stream(self, name: str, function: str, items: int) -> Streamed:
        """Have one stream sent, and make sure that its text is whole."""
        worker = self.workers[name]
        worker.deltas = worker.texts = 0
        worker.is_whole.clear()
        answered = asyncio.Event()
        worker.answer = lambda _: answered.set()
        began = time.perf_counter()
        worker.send(function, next(self._numbers), {"text": TEXT, "count": items})
        await asyncio.gather(worker.is_whole.wait(), answered.wait())
        elapsed_s = time.perf_counter() - began
        assert worker.texts == items * len(TEXT), f"{name} lost text"
        first_ms = (worker.first_delta_at - began) * 1e3
        return Streamed(worker.deltas / elapsed_s, items / elapsed_s, first_ms)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    def __init__(self, serve: Any) -> None:
        self._roles = {path: role for role, path in METHODS.items()}
        self._serve = serve

    def service(self, details: Any) -> Any:
        role = self._roles[details.method]
        return grpc.stream_stream_rpc_method_handler(partial(self._serve, role))
