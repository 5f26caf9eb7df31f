"""One worker as an orchestrator sees it: what it said, and what it is to do."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from gen_worker.runtime.wire import JobRequest, Registration, WorkerEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.wire import Inbound, Message, StreamRole
    from gen_worker.testing.jobs import Job
    from gen_worker.testing.orchestrator import Orchestrator

__all__ = ["WorkerSession"]

M = TypeVar("M")


class WorkerSession:
    """One worker, through all its connections."""

    def __init__(self, worker_id: str, orchestrator: Orchestrator) -> None:
        self.worker_id = worker_id
        self.orchestrator = orchestrator
        self.registration = Registration()
        """What it said last of itself, heartbeats included."""
        self.registrations: list[Registration] = []
        """Those that were no heartbeats."""
        self.messages: list[tuple[StreamRole, Message]] = []
        """Everything it said, with the stream that carried it."""
        self.assigned: dict[str, Job] = {}
        """Jobs it has and has not answered, or not to the end of their stream."""
        self._session: Session | None = None
        """None until it connects; one that is put into `Orchestrator.workers` may be awaited."""
        self._connection = 0
        self._commands: deque[Inbound | bytes] = deque()
        """What is not written yet."""

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "gone"
        return f"<WorkerSession {self.worker_id!r} {state}, {len(self.assigned)} assigned>"

    @property
    def is_connected(self) -> bool:
        """Whether it is registered and takes commands."""
        return self._session is not None and self._session.is_connected

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Of its last control stream: `authorization` and so on."""
        return {} if self._session is None else self._session.metadata

    @property
    def peer(self) -> str:
        """Of its last control stream, such as `ipv4:127.0.0.1:43210`."""
        return "" if self._session is None else self._session.peer

    @property
    def streams(self) -> Mapping[StreamRole, int]:
        """How many of each are open."""
        return {} if self._session is None else self._session.streams

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
        is_sent = self._session is not None and self._session.send(command)
        if not (is_sent and isinstance(command, bytes)):
            self._commands.append(command)

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

    def _registered(self, session: Session, registration: Registration) -> None:
        """Send what was not written, and the jobs it knows nothing of."""
        known = {*registration.in_flight_request_ids, *self._waiting_ids()}
        if self._connection != session.connection:
            self._connection = session.connection
            commands, self._commands = self._commands, deque()
            for command in commands:
                self.send(command)
        for request_id in [one for one in self.assigned if one not in known]:
            self.assign(self.assigned[request_id])

    def _waiting_ids(self) -> set[str]:
        """Return the jobs that are not written yet."""
        return {one.request_id for one in self._commands if isinstance(one, JobRequest)}

    def _wrote(self, command: Message) -> None:
        """Take note that a command is not to be written any more, if it still was."""
        for place, waiting in enumerate(self._commands):
            if waiting is command:
                del self._commands[place]
                return
