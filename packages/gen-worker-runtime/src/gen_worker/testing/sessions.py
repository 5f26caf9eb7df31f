"""One worker as an orchestrator sees it: what it said, and what it is to do."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from gen_worker.runtime.wire import JobRequest, Registration, WorkerEvent, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc.aio

    from gen_worker.runtime.wire import Inbound, Message, StreamRole
    from gen_worker.testing.jobs import Job
    from gen_worker.testing.orchestrator import Orchestrator

__all__ = ["WorkerSession"]

M = TypeVar("M")

_WRITE_S = 1.0
"""That a write under way may take once its stream is to end."""


class WorkerSession:
    """One worker, through all its connections."""

    def __init__(self, worker_id: str, orchestrator: Orchestrator) -> None:
        self.worker_id = worker_id
        self.orchestrator = orchestrator
        self.registration = Registration()
        """What it said last of itself, heartbeats included."""
        self.registrations: list[Registration] = []
        """Those that were no heartbeats."""
        self.metadata: dict[str, Any] = {}
        """Of its last control stream: `authorization` and so on."""
        self.peer = ""
        """Of its last control stream, such as `ipv4:127.0.0.1:43210`."""
        self.streams: dict[StreamRole, int] = {}
        """How many of each are open."""
        self.messages: list[tuple[StreamRole, Message]] = []
        """Everything it said, with the stream that carried it."""
        self.assigned: dict[str, Job] = {}
        """Jobs it has and has not answered, or not to the end of their stream."""
        self._commands: deque[Inbound | bytes] = deque()
        self._has_commands = asyncio.Event()
        self._readers: dict[asyncio.Task[None], StreamRole] = {}
        self._context: Any = None
        self._writer: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "gone"
        return f"<WorkerSession {self.worker_id!r} {state}, {len(self.assigned)} assigned>"

    @property
    def is_connected(self) -> bool:
        """Whether it is registered and takes commands."""
        return self._context is not None

    def heard(self, kind: type[M]) -> list[M]:
        """Return everything of one kind that it said."""
        return [message for _, message in self.messages if isinstance(message, kind)]

    def events(self, event_type: str = "") -> list[WorkerEvent]:
        """Return its events of one type, or all."""
        return [event for event in self.heard(WorkerEvent) if event_type in ("", event.event_type)]

    def send(self, command: Inbound | bytes) -> None:
        """Send anything; it waits while there is no connection.

        Bytes, which may mean nothing, are tried once: they may be what breaks the connection.
        """
        self._commands.append(command)
        self._has_commands.set()

    def submit(self, function: str, payload: Mapping[str, Any] | None = None, **fields: Any) -> Job:
        """Send a job.

        Args:
            function: Slug.
            payload: Of the function; sent as MessagePack.
            **fields: More of `JobRequest`, such as `request_id` and `timeout_ms`.
        """
        job = self.orchestrator.job(function, payload, **fields)
        self.assign(job)
        return job

    def assign(self, job: Job) -> None:
        """Give a job to this worker, for the first time or again, and then from its beginning."""
        job.attempts += 1
        job._begin()
        self.assigned[job.request.request_id] = job
        self.send(job.request)

    # Inside.

    def _heard(self, role: StreamRole, message: Message) -> None:
        self.messages.append((role, message))
        if isinstance(message, Registration) and role == "control":
            self.registration = message
            if not message.is_heartbeat:
                self.registrations.append(message)
                known = {*message.in_flight_request_ids, *self._waiting_ids()}
                for request_id in [one for one in self.assigned if one not in known]:
                    self.assign(self.assigned[request_id])

    def _waiting_ids(self) -> set[str]:
        """Return the jobs that are not written yet."""
        return {one.request_id for one in self._commands if isinstance(one, JobRequest)}

    def _begin_writing(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self._has_commands.set()  # a writer of an older stream ends
        self._has_commands = asyncio.Event()
        self._writer = asyncio.create_task(self._write(context, self._has_commands))

    async def _end_writing(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        """Have no more commands written; one that is being written is not interrupted.

        gRPC would not end a stream whose write was canceled.
        """
        if self._context is not context or self._writer is None:
            return
        writer, self._context, self._writer = self._writer, None, None
        self._has_commands.set()
        await asyncio.wait([writer], timeout=_WRITE_S)
        writer.cancel()

    async def _write(
        self, context: grpc.aio.ServicerContext[bytes, bytes], has_commands: asyncio.Event
    ) -> None:
        while self._context is context:
            if self._commands:
                command = self._commands[0]
                if isinstance(command, bytes):
                    self._commands.popleft()
                    await context.write(command)
                    continue
                await self._send(context, command)
                if self._commands and self._commands[0] is command:
                    self._commands.popleft()
            else:
                has_commands.clear()
                await has_commands.wait()

    async def _send(
        self, context: grpc.aio.ServicerContext[bytes, bytes], command: Inbound
    ) -> None:
        """Write a command; one that was written is not written again to another connection."""

        async def write() -> None:
            await context.write(encode(command))
            if self._commands and self._commands[0] is command:
                self._commands.popleft()

        await self.orchestrator._pass(self, "control", command, write)
