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
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import grpc
import grpc.aio
import msgspec

from gen_worker.runtime.wire import (
    METHODS,
    SERVER_OPTIONS,
    JobRequest,
    Registration,
    decode,
)
from gen_worker.testing.held_port import HeldPort
from gen_worker.testing.jobs import Job
from gen_worker.testing.sessions import WorkerSession

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType

    from gen_worker.runtime.wire import Message, StreamRole

__all__ = ["Crossing", "Job", "Orchestrator", "Passage", "WorkerSession"]

M = TypeVar("M")

_ROLES: Mapping[str, StreamRole] = {path: role for role, path in METHODS.items()}

_OPTIONS = (*SERVER_OPTIONS, ("grpc.so_reuseport", 0))
"""Without sharing the port: two orchestrators on one would each get some of the streams."""


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

    def __init__(
        self,
        listen: str = "127.0.0.1:0",
        *,
        faults: Passage | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """Prepare a server.

        Args:
            listen: `host:port`; port 0 takes a free one, and keeps it through `stop` and `start`.
            faults: What goes wrong on the way.
            credentials: Its certificate and key; without them connections are not encrypted.
        """
        self._listen = listen
        self._port: HeldPort | None = None
        self._faults = faults
        self._credentials = credentials
        self._dropped: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None
        self._news = asyncio.Condition()
        self._numbers = itertools.count(1)
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
        if self._port is not None:
            self._port.close()

    @property
    def address(self) -> str:
        """Where workers connect to, `host:port`."""
        return self._listen

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        host, _, port = self._listen.rpartition(":")
        if port == "0":
            self._port = HeldPort(host.strip("[]"))
            self._listen = f"{host}:{self._port.number}"
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_Methods(self._serve),))
        if self._credentials is None:
            self._server.add_insecure_port(self._listen)
        else:
            self._server.add_secure_port(self._listen, self._credentials)
        await self._server.start()

    async def stop(self, grace_s: float | None = None) -> None:
        """Break every connection and listen no more; what was heard stays.

        Args:
            grace_s: Seconds for streams that are just ending, as after `hang_up`.
        """
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None

    def cut(self, role: StreamRole = "control") -> None:
        """End the streams of one role, from this side and in order."""
        for worker in self.workers.values():
            for reader, its_role in worker._readers.items():
                if its_role == role:
                    reader.cancel()

    def forget(self) -> None:
        """Forget every job, and what the workers said."""
        self.jobs.clear()
        for worker in self.workers.values():
            worker.messages.clear()
            worker.registrations.clear()
            worker.assigned.clear()

    def drop(self, worker: WorkerSession) -> None:
        """Break all streams of one worker, as a network does: nothing under way arrives."""
        for reader in worker._readers:
            self._dropped.add(reader)
            reader.cancel()

    async def hang_up(self) -> None:
        """End every stream in order, and wait until none is open."""
        for role in METHODS:
            self.cut(role)
        await self.until(
            lambda: not any(open for one in self.workers.values() for open in one.streams.values())
        )

    async def connected(self, *, timeout_s: float = 30.0) -> WorkerSession:
        """Wait until some worker is connected and return it."""

        def found() -> WorkerSession | None:
            return next((one for one in self.workers.values() if one.is_connected), None)

        return await self.until(found, timeout_s=timeout_s)

    async def until(self, look: Callable[[], M | None], *, timeout_s: float = 30.0) -> M:
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
        worker._readers[reader] = role
        try:
            await asyncio.wait([reader])
        finally:
            reader.cancel()
            del worker._readers[reader]
            worker.streams[role] -= 1
            if role == "control":
                await worker._end_writing(context)
            await self._tell()
        if reader in self._dropped:
            self._dropped.remove(reader)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped")

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
        await self._pass(worker, role, message, partial(self._heard, worker, role, message))
        await asyncio.sleep(0)  # a fault may have ended this stream: gRPC must not be reading then

    async def _pass(
        self,
        worker: WorkerSession,
        role: StreamRole,
        message: Message,
        deliver: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        if self._faults is None:
            await deliver()
        else:
            await self._faults.cross(Crossing(self, worker, role, message), deliver)

    async def _heard(self, worker: WorkerSession, role: StreamRole, message: Message) -> None:
        worker._heard(role, message)
        job = self.jobs.get(getattr(message, "request_id", ""))
        if job is not None:
            job._heard(message)
            if job.is_finished:
                worker.assigned.pop(job.request.request_id, None)
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, serve: Callable[..., Any]) -> None:
        self._serve = serve

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        role = _ROLES.get(details.method)
        return role and grpc.stream_stream_rpc_method_handler(partial(self._serve, role))
