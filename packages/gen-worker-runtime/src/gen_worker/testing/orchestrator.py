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
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec

from gen_worker.runtime.scheduler.gateway import Gateway, GatewayOptions
from gen_worker.runtime.wire import METHODS, JobRequest
from gen_worker.testing.held_port import HeldPort
from gen_worker.testing.jobs import Job
from gen_worker.testing.sessions import WorkerSession

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType

    import grpc

    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.wire import Message, Registration, StreamRole

__all__ = ["Crossing", "Job", "Orchestrator", "Passage", "WorkerSession"]

M = TypeVar("M")

_OPTIONS = GatewayOptions(
    silent_after_s=0,
    first_message_s=0,
    forget_after_s=0,
    max_unwritten_bytes=1 << 62,
    trusts_everyone=True,
)
"""Tests decide what goes wrong, and nothing else does."""


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
        self._port: HeldPort | None = None
        self._faults = faults
        self._credentials = credentials
        self._gateway = self._listening(listen)
        self._waiting: list[asyncio.Future[None]] = []
        self._numbers = itertools.count(1)
        self.workers: dict[str, WorkerSession] = {}
        """By worker id; those that were here once stay."""
        self.jobs: dict[str, Job] = {}

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
        return self._gateway.address

    @property
    def refusal(self) -> tuple[grpc.StatusCode, str] | None:
        """Status with which every stream is refused."""
        return self._gateway.refusal

    @refusal.setter
    def refusal(self, refusal: tuple[grpc.StatusCode, str] | None) -> None:
        self._gateway.refusal = refusal

    async def start(self) -> None:
        """Listen, on the same port as before if there was one.

        Raises:
            ListenError: The address is taken.
        """
        host, _, port = self.address.rpartition(":")
        if port == "0":
            self._port, refusal = HeldPort(host.strip("[]")), self.refusal
            self._gateway = self._listening(f"{host}:{self._port.number}")
            self.refusal = refusal
        await self._gateway.start()

    async def stop(self, grace_s: float | None = None) -> None:
        """Break every connection and listen no more; what was heard stays.

        Args:
            grace_s: Seconds for streams that are just ending, as after `hang_up`.
        """
        await self._gateway.stop(grace_s)

    def cut(self, role: StreamRole = "control") -> None:
        """End the streams of one role, from this side and in order."""
        for session in self._gateway.sessions.values():
            session.end(role)

    def forget(self) -> None:
        """Forget every job, and what the workers said."""
        self.jobs.clear()
        for worker in self.workers.values():
            worker.messages.clear()
            worker.registrations.clear()
            worker.assigned.clear()

    def drop(self, worker: WorkerSession) -> None:
        """Break all streams of one worker, as a network does: nothing under way arrives."""
        if worker._session is not None:
            worker._session.close("dropped")

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
        async with asyncio.timeout(timeout_s):
            while not (found := look()):
                news = asyncio.get_running_loop().create_future()
                self._waiting.append(news)
                await news
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

    def _listening(self, listen: str) -> Gateway:
        ear = _Ear(self, self._faults)
        return Gateway(listen, ear, passage=ear, credentials=self._credentials, options=_OPTIONS)

    def _worker(self, session: Session) -> WorkerSession:
        worker = self.workers.get(session.worker_id)
        if worker is None:
            worker = self.workers[session.worker_id] = WorkerSession(session.worker_id, self)
        worker._session = session
        return worker

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            if not news.done():
                news.set_result(None)


class _Ear:
    """What an orchestrator hears of its gateway: as its handler, and on the way to that."""

    def __init__(self, orchestrator: Orchestrator, faults: Passage | None) -> None:
        self._orchestrator = orchestrator
        self._faults = faults

    # As the gateway's passage.

    async def cross(
        self,
        session: Session,
        role: StreamRole,
        message: Message,
        deliver: Callable[[], Coroutine[Any, Any, None]],
        *,
        is_command: bool,
    ) -> None:
        worker = self._orchestrator._worker(session)

        async def arrive() -> None:
            if not is_command:
                worker._heard(role, message)
            await deliver()
            if is_command:
                worker._wrote(message)
            self._orchestrator._tell()

        if self._faults is None:
            await arrive()
        else:
            await self._faults.cross(Crossing(self._orchestrator, worker, role, message), arrive)
        if is_command:
            worker._wrote(message)  # one that a fault took is lost

    def ended(self, session: Session, role: StreamRole) -> None:
        self._orchestrator._tell()

    # As its handler.

    def registered(self, session: Session, registration: Registration) -> None:
        self._orchestrator._worker(session)._registered(session, registration)

    def heartbeat(self, session: Session, registration: Registration) -> None:
        """Nothing follows from it."""

    def heard(self, session: Session, message: Message) -> None:
        job = self._orchestrator.jobs.get(getattr(message, "request_id", ""))
        if job is not None:
            job._heard(message)
            if job.is_finished:
                worker = self._orchestrator._worker(session)
                worker.assigned.pop(job.request.request_id, None)

    def lost(self, session: Session, reason: str) -> None:
        self._orchestrator._tell()
