"""The gateway's peer: the least that can give jobs to workers over the same protocol.

A stream for a role, read and counted; a queue and a writer for each worker. No session, token,
limit, watch over silence, or second connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from gen_worker.runtime.wire import (
    METHODS,
    SERVER_OPTIONS,
    JobRequest,
    JobResult,
    Registration,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PAYLOAD = b"\x81\xa4text\xabhello world"


class Worker:
    """Commands that wait for one worker."""

    def __init__(self) -> None:
        self.commands: deque[bytes] = deque()
        self.news = asyncio.Event()

    def send(self, data: bytes) -> None:
        self.commands.append(data)
        self.news.set()

    async def write(self, context: Any) -> None:
        while True:
            while self.commands:
                await context.write(self.commands.popleft())
            self.news.clear()
            await self.news.wait()


class FanOut:
    """A server of the protocol."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.streams = 0
        self.waiting: dict[str, Callable[[], None]] = {}

    async def start(self) -> str:
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        self.server.add_generic_rpc_handlers((_Methods(self.serve),))
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self.server.stop(None)

    def connected(self) -> int:
        return self.streams // 3

    def submit(self, number: int, answered: Callable[[], None]) -> None:
        request = JobRequest(request_id=f"job-{number}", function="echo-sync", payload=PAYLOAD)
        self.waiting[request.request_id] = answered
        self.workers[number % len(self.workers)].send(encode(request))

    async def serve(self, role: str, first: Any, context: Any) -> None:
        registration = decode(await context.read())
        assert isinstance(registration, Registration)
        self.streams += 1
        if role == "control":
            worker = Worker()
            self.workers.append(worker)
            writer = asyncio.create_task(worker.write(context))
        try:
            while isinstance(data := await context.read(), bytes):
                message = decode(data)
                if isinstance(message, JobResult):
                    self.waiting.pop(message.request_id)()
        finally:
            if role == "control":
                writer.cancel()


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc,unused-ignore]
    def __init__(self, serve: Any) -> None:
        self._roles = {path: role for role, path in METHODS.items()}
        self._serve = serve

    def service(self, details: Any) -> Any:
        role = self._roles[details.method]
        return grpc.stream_stream_rpc_method_handler(partial(self._serve, role))
