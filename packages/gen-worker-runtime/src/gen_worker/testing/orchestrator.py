"""The other end of the worker protocol, in this process and over real gRPC on loopback.

Example:
    async with Orchestrator() as orchestrator:
        worker = await orchestrator.connected()
        job = worker.submit("marco-polo", {"text": "marco"})
        result = await job.result()
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import grpc
import grpc.aio
import msgspec

from gen_worker.runtime.wire import (
    CHANNEL_OPTIONS,
    METHODS,
    DiagnosticLog,
    JobRequest,
    JobResult,
    Registration,
    StreamDone,
    StreamError,
    TokenDelta,
    WorkerEvent,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType

    from gen_worker.runtime.wire import Inbound, Message, StreamRole

__all__ = ["Crossing", "Job", "Orchestrator", "Passage", "WorkerSession"]

M = TypeVar("M")

_ROLES: Mapping[str, StreamRole] = {path: role for role, path in METHODS.items()}

_OPTIONS = (*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0))
"""Without sharing the port: two orchestrators on one would each get some of the streams."""

_WRITE_S = 1.0
"""That a write under way may take once its stream is to end."""


class Crossing(NamedTuple):
    """One message on its way over a stream."""

    orchestrator: Orchestrator
    worker: WorkerSession
    role: StreamRole
    message: Message


class Passage(Protocol):
    """Stands between the streams and the orchestrator, and decides what comes through and when.

    Every message goes through it, in either direction and in the order of its stream, which waits.
    `gen_worker.testing.faults.StreamFaults` is one.
    """

    async def cross(
        self, crossing: Crossing, deliver: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Await `deliver` once, or twice, or not at all."""
        ...


class Orchestrator:
    """Serves the protocol, remembers all it hears, and hands jobs to workers.

    A job that a worker was given is given to it again, from its beginning, when the worker
    registers anew and does not know of it any more: so do orchestrators that care for clients.
    """

    def __init__(self, listen: str = "127.0.0.1:0", *, faults: Passage | None = None) -> None:
        """Prepare a server.

        Args:
            listen: `host:port`; port 0 takes a free one, and keeps it through `stop` and `start`.
            faults: What goes wrong on the way.
        """
        self._listen = listen
        self._faults = faults
        self._drops: dict[asyncio.Task[None], str] = {}
        self._server: grpc.aio.Server | None = None
        self._news = asyncio.Condition()
        self._numbers = itertools.count(1)
        self._readers: dict[StreamRole, set[asyncio.Task[None]]] = {}
        self.workers: dict[str, WorkerSession] = {}
        """By worker id; those that were here once stay."""
        self.jobs: dict[str, Job] = {}
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        """Status with which every stream is refused."""

    async def __aenter__(self) -> Orchestrator:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        """Where workers connect to, `host:port`."""
        return self._listen

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_Methods(self._serve),))
        port = self._server.add_insecure_port(self._listen)
        self._listen = f"{self._listen.rpartition(':')[0]}:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Break every connection and listen no more; what was heard stays."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    def cut(self, role: StreamRole = "control") -> None:
        """End the streams of one role, from this side and in order."""
        for reader in self._readers.get(role, ()):
            reader.cancel()

    def forget(self) -> None:
        """Forget every job, and what the workers said."""
        self.jobs.clear()
        for worker in self.workers.values():
            worker.messages.clear()
            worker.registrations.clear()
            worker.assigned.clear()

    def drop(self, worker: WorkerSession, reason: str = "dropped") -> None:
        """Break all streams of one worker, as a network does: nothing under way arrives."""
        for reader in worker._readers:
            self._drops[reader] = reason
            reader.cancel()

    async def hang_up(self) -> None:
        """End every stream in order, and wait until none is open."""
        for role in METHODS:
            self.cut(role)
        await self.until(
            lambda: not any(open for one in self.workers.values() for open in one.streams.values())
        )

    async def connected(self, *, timeout_s: float = 10.0) -> WorkerSession:
        """Wait until some worker is connected and return it."""

        def found() -> WorkerSession | None:
            return next((one for one in self.workers.values() if one.is_connected), None)

        return await self.until(found, timeout_s=timeout_s)

    async def until(self, look: Callable[[], M | None], *, timeout_s: float = 10.0) -> M:
        """Wait until `look` finds something, asked after everything that happens; return it.

        Raises:
            TimeoutError: It did not in time.
        """
        async with asyncio.timeout(timeout_s), self._news:
            while not (found := look()):
                await self._news.wait()
            return found

    def job(self, function: str, payload: Mapping[str, Any] | None = None, **fields: Any) -> Job:
        """Make a job; see `WorkerSession.submit`."""
        request_id = fields.pop("request_id", None) or f"request-{next(self._numbers)}"
        request = JobRequest(
            request_id=request_id,
            function=function,
            payload=msgspec.msgpack.encode(payload or {}),
            **fields,
        )
        job = self.jobs[request_id] = Job(request, self)
        return job

    # Inside.

    async def _serve(
        self, role: StreamRole, first: Any, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> None:
        if self.refusal is not None:
            await context.abort(*self.refusal)
        data = await context.read()
        if not isinstance(data, bytes):
            return  # it left before it said a word
        registration = decode(data)
        assert isinstance(registration, Registration), "every stream begins with a registration"
        worker_id = registration.resources.worker_id
        worker = self.workers.get(worker_id)
        if worker is None:
            worker = self.workers[worker_id] = WorkerSession(worker_id, self)
        worker.streams[role] = worker.streams.get(role, 0) + 1
        if role == "control":
            worker.metadata = dict(context.invocation_metadata() or ())
            worker.peer = context.peer()
        reader = asyncio.create_task(self._read(worker, role, context, registration))
        self._readers.setdefault(role, set()).add(reader)
        worker._readers.add(reader)
        try:
            await asyncio.wait([reader])
        finally:
            reader.cancel()
            self._readers[role].discard(reader)
            worker._readers.discard(reader)
            worker.streams[role] -= 1
            if role == "control":
                await worker._end_writing(context)
            await self._tell()
        if reason := self._drops.pop(reader, ""):
            await context.abort(grpc.StatusCode.UNAVAILABLE, reason)

    async def _read(
        self,
        worker: WorkerSession,
        role: StreamRole,
        context: grpc.aio.ServicerContext[bytes, bytes],
        first: Registration,
    ) -> None:
        await self._hear(worker, role, first)
        if role == "control":
            worker._begin_writing(context)
            await self._tell()
        while isinstance(data := await context.read(), bytes):
            message = decode(data)
            if message is not None:
                await self._hear(worker, role, message)

    async def _hear(self, worker: WorkerSession, role: StreamRole, message: Message) -> None:
        crossing = Crossing(self, worker, role, message)
        await self._pass(crossing, partial(self._heard, worker, role, message))
        await asyncio.sleep(0)  # a fault may have ended this stream: gRPC must not be reading then

    async def _pass(
        self, crossing: Crossing, deliver: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        if self._faults is None:
            await deliver()
        else:
            await self._faults.cross(crossing, deliver)

    async def _heard(self, worker: WorkerSession, role: StreamRole, message: Message) -> None:
        worker._heard(role, message)
        job = self.jobs.get(getattr(message, "request_id", ""))
        if job is not None:
            job._heard(message)
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


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
        """Jobs it has and has not answered."""
        self._commands: deque[Inbound | bytes] = deque()
        self._has_commands = asyncio.Event()
        self._readers: set[asyncio.Task[None]] = set()
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
        """Send anything, also bytes that mean nothing; it waits while there is no connection."""
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
        elif isinstance(message, JobResult):
            self.assigned.pop(message.request_id, None)

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
                await self._send(context, command)
                if self._commands and self._commands[0] is command:
                    self._commands.popleft()
            else:
                has_commands.clear()
                await has_commands.wait()

    async def _send(
        self, context: grpc.aio.ServicerContext[bytes, bytes], command: Inbound | bytes
    ) -> None:
        """Write a command; one that was written is not written again to another connection."""

        async def write() -> None:
            await context.write(command if isinstance(command, bytes) else encode(command))
            if self._commands and self._commands[0] is command:
                self._commands.popleft()

        if isinstance(command, bytes):
            await write()
        else:
            crossing = Crossing(self.orchestrator, self, "control", command)
            await self.orchestrator._pass(crossing, write)


class Job:
    """One request and everything a worker said about it."""

    def __init__(self, request: JobRequest, orchestrator: Orchestrator) -> None:
        self.request = request
        self._orchestrator = orchestrator
        self.attempts = 0
        self.results: list[JobResult] = []
        """One; more of the same where a broken connection left doubt."""
        self.deltas: dict[int, TokenDelta] = {}
        """By sequence; one that came twice is here once."""
        self.end: StreamDone | StreamError | None = None
        self.events: list[WorkerEvent] = []
        self.contradictions: list[TokenDelta] = []
        """Deltas that came under a sequence that had said something else."""
        self.late = 0
        """Deltas and ends that came once it was finished."""

    @property
    def text(self) -> str:
        """The streamed text, whole."""
        return "".join(self.deltas[number].delta_text for number in sorted(self.deltas))

    @property
    def is_finished(self) -> bool:
        """Whether the result is here, and the whole stream if there is one."""
        if not self.results:
            return False
        if self.end is not None:
            return len(self.deltas) == self.end.sequence - 1
        # The result of a stream says nothing itself, and may come before the stream does.
        return not self.deltas and (bool(self.results[0].payload) or not self.results[0].success)

    async def result(self, *, timeout_s: float = 10.0) -> JobResult:
        """Wait until the job is finished and return its result."""
        await self._orchestrator.until(lambda: self.is_finished, timeout_s=timeout_s)
        return self.results[0]

    async def output(self, *, timeout_s: float = 10.0) -> Any:
        """Wait for success and return what the function returned, as plain values."""
        result = await self.result(timeout_s=timeout_s)
        assert result.success, f"{result.error_type}: {result.safe_message}"
        return msgspec.msgpack.decode(result.payload) if result.payload else None

    def _begin(self) -> None:
        self.deltas.clear()
        self.end = None

    def _heard(self, message: Message) -> None:
        match message:
            case JobResult():
                self.results.append(message)
            case TokenDelta() | StreamDone() | StreamError() if self.is_finished:
                self.late += 1
            case TokenDelta():
                known = self.deltas.setdefault(message.sequence, message)
                if known != message:
                    self.contradictions.append(message)
            case StreamDone() | StreamError():
                self.end = message
            case WorkerEvent():
                self.events.append(message)
            case DiagnosticLog() | _:
                pass


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, serve: Callable[..., Any]) -> None:
        self._serve = serve

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        role = _ROLES.get(details.method)
        return role and grpc.stream_stream_rpc_method_handler(partial(self._serve, role))
