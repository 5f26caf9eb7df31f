"""Requests that outlive their client's connection: submitted, looked at, followed, canceled.

Everything is in this process's memory. A request that has ended is kept for a while, and only as
many as there is room for.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from time import perf_counter
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import msgspec

from gen_worker.errors import Failure, OutputTooLargeError, OverloadedError, classify
from gen_worker.events import Delta, Failed, Result
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.answers import answer_of, json_line, record_of
from gen_worker.runtime.http.sse import COMMENT, frame, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.events import Event
    from gen_worker.runtime.engine import Invocation, Sink
    from gen_worker.runtime.http.backend import Handle

    Submit = Callable[[Invocation, Sink], Handle]

__all__ = ["Job", "JobLimits", "Jobs", "MemoryJobs", "Reader", "Status"]

Status = Literal["queued", "running", "succeeded", "failed", "canceled"]


class Reader(Protocol):
    """One client that follows a request's events."""

    async def read(self) -> bytes:
        """Return the next events as a stream shows them, waiting for some; empty at the end."""
        ...

    def ping(self) -> None:
        """Have `read` return, with nothing but a sign of life when there is nothing else."""
        ...

    def close(self) -> None:
        """Stop reading. Exactly once."""
        ...


class Job(Protocol):
    """One submitted request."""

    request_id: str
    function: str

    @property
    def status(self) -> Status: ...
    @property
    def outcome(self) -> Result | Failed | None: ...
    def answer(self) -> bytes:
        """Return the body of an answer; of a request under way what is known so far."""
        ...

    async def wait(self) -> None:
        """Wait until it has ended."""
        ...

    def cancel(self, reason: CancelReason) -> bool:
        """Cancel it; False when it has ended, or was canceled before."""
        ...

    def read(self, after: int) -> Reader:
        """Follow its events, from the first whose id is greater than `after`."""
        ...


class Jobs(Protocol):
    """Submitted requests, wherever they are kept. Called on the loop."""

    @property
    def running(self) -> int:
        """How many would be lost if this process ended."""
        ...

    def submit(self, invocation: Invocation, *, key: str = "", body: bytes = b"") -> Job:
        """Start a request, or return the one that was started with the same key.

        Args:
            invocation: What to call.
            key: The caller's `Idempotency-Key`.
            body: What makes two requests the same.

        Raises:
            Refusal: 409, the key belongs to another body, or the id to another request.
            OverloadedError: There are too many.
        """
        ...

    def find(self, request_id: str) -> Job | None: ...


class JobLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of submitted requests."""

    max_jobs: int = 1000
    """Of those that have ended the oldest is forgotten; when none has, one more is refused."""
    max_bytes: int = 256 * 1024 * 1024
    """Events of all requests that have ended."""
    max_job_bytes: int = 8 * 1024 * 1024
    """Events of one request. Beyond it those that all its readers have are forgotten; while there
    are none to forget, the request waits."""
    patience_s: float = 30.0
    """How long it waits so before it is canceled."""
    keep_s: float = 600.0
    """How long a request that has ended can be asked for."""


class _Kept(NamedTuple):
    name: bytes
    data: bytes
    """JSON on one line."""


class MemoryJobs:
    """The requests of one process."""

    def __init__(
        self,
        submit: Submit,
        limits: JobLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[Failure], None] = lambda _failure: None,
    ) -> None:
        """Keep requests in memory.

        Args:
            submit: Starts a call.
            limits: How much is kept.
            clock: Seconds, of which ended requests are kept so many.
            report: Told on the loop of every request that failed, for the operator's log.
        """
        self.limits = limits or JobLimits()
        self._submit = submit
        self._clock = clock
        self.report = report
        self._jobs: dict[str, MemoryJob] = {}
        self._ended: dict[str, tuple[float, int]] = {}
        """When each job ended, in that order, and the bytes it keeps."""
        self._ended_bytes = 0
        self._keys: dict[str, tuple[bytes, MemoryJob]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def running(self) -> int:
        return len(self._jobs) - len(self._ended)

    def submit(self, invocation: Invocation, *, key: str = "", body: bytes = b"") -> MemoryJob:
        self._forget_old(room_for=1)
        digest = b""
        if key:
            digest = hashlib.sha256(b"%b\0%b" % (invocation.function.encode(), body)).digest()
            known = self._keys.get(key)
            if known is not None and not known[1].may_be_tried_again:
                return _same(known, digest)
        if invocation.request_id in self._jobs:
            raise Refusal(
                409,
                "duplicate_request_id",
                f"there is a request {invocation.request_id!r} already: give each its own id",
            )
        if len(self._jobs) >= self.limits.max_jobs:
            raise OverloadedError("too many requests are kept here", retry_after_s=5.0)
        job = MemoryJob(self, invocation, key)
        self._jobs[job.request_id] = job
        if key:
            self._keys[key] = (digest, job)
        job.handle = self._submit(invocation, job)
        return job

    def find(self, request_id: str) -> MemoryJob | None:
        self._forget_old()
        return self._jobs.get(request_id)

    def note_end(self, job: MemoryJob) -> None:
        self._ended[job.request_id] = (self._clock(), job.size_bytes)
        self._ended_bytes += job.size_bytes
        self._forget_old()

    def _forget_old(self, room_for: int = 0) -> None:
        """Forget what ended long ago, and what there is no room for; never what somebody reads."""
        limits, now = self.limits, self._clock()
        for request_id, (ended_at, size_bytes) in list(self._ended.items()):
            is_old = now - ended_at >= limits.keep_s
            is_full = len(self._jobs) + room_for > limits.max_jobs
            if not (is_old or is_full or self._ended_bytes > limits.max_bytes):
                return
            job = self._jobs[request_id]
            if not job.readers:
                self._ended_bytes -= size_bytes
                del self._jobs[request_id], self._ended[request_id]
                if self._keys.get(job.key, (b"", None))[1] is job:
                    del self._keys[job.key]


def _same(known: tuple[bytes, MemoryJob], digest: bytes) -> MemoryJob:
    if known[0] != digest:
        raise Refusal(
            409,
            "idempotency_conflict",
            "the Idempotency-Key belongs to another request: give each request its own key",
            request_id=known[1].request_id,
        )
    return known[1]


class MemoryJob:
    """One request: the `Sink` of its call, and the events it has produced."""

    wants_events = True
    handle: Handle | None = None

    def __init__(self, jobs: MemoryJobs, invocation: Invocation, key: str) -> None:
        self.request_id = invocation.request_id
        self.function = invocation.function
        self.key = key
        self.readers: set[MemoryReader] = set()
        self.size_bytes = 0
        self.outcome: Result | Failed | None = None
        self._jobs = jobs
        self._kept: list[_Kept] = []
        self._first = 1
        """Id of the first event that is kept."""
        self._started_at = perf_counter()
        self._created_at = time.time()
        self._total_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._is_canceled = False
        self._refusal: Failure | None = None
        self._patience: asyncio.TimerHandle | None = None

    # -- what is known -----------------------------------------------------------------------------

    @property
    def next_id(self) -> int:
        return self._first + len(self._kept)

    @property
    def first_id(self) -> int:
        return self._first

    @property
    def may_be_tried_again(self) -> bool:
        return isinstance(self.outcome, Failed) and self.outcome.failure.retryable

    @property
    def status(self) -> Status:
        outcome = self.outcome
        if outcome is None:
            return "running" if getattr(self.handle, "has_begun", True) else "queued"
        if isinstance(outcome, Result):
            return "succeeded"
        return "canceled" if outcome.failure.error_type == "canceled" else "failed"

    def answer(self) -> bytes:
        more = {
            "status": self.status,
            "function": self.function,
            "created_at": self._created_at,
            "last_event_id": self.next_id - 1,
        }
        addition = msgspec.json.encode(more)[1:]
        if self.outcome is None:
            return b'{"request_id":%b,%b' % (msgspec.json.encode(self.request_id), addition)
        output = None
        records = b"".join(
            b"%b," % kept.data for kept in self._kept if kept.name in (b"event", b"progress")
        )
        if isinstance(self.outcome, Result) and self.outcome.is_streamed:
            items = [kept.data for kept in self._kept if kept.name == b"delta"]
            # What was forgotten was read by those who followed it; half an output is none.
            is_whole = self._first == 1
            output = msgspec.Raw(b"[%b]" % b",".join(items) if is_whole else b"null")
        body = answer_of(self.outcome, self._total_s, output=output, events=records)
        return b"%b,%b" % (body[:-1], addition)

    # -- the sink ----------------------------------------------------------------------------------

    def deliver(self, batch: Sequence[Event]) -> None:
        for event in batch:
            if isinstance(event, Delta):
                self._keep(b"delta", json_line(event.value))
            elif not isinstance(event, (Result, Failed)):
                record = record_of(event)
                if record is not None:
                    self._keep(name_of(event), record)
        last = batch[-1]
        if isinstance(last, (Result, Failed)):
            self._end(last)
        elif self.size_bytes > self._jobs.limits.max_job_bytes:
            self.make_room()
        for reader in self.readers:
            reader.wake()

    def _keep(self, name: bytes, data: bytes) -> None:
        self._kept.append(_Kept(name, data))
        self.size_bytes += len(data)

    def _end(self, outcome: Result | Failed) -> None:
        if self._refusal is not None:
            outcome = Failed(
                request_id=self.request_id, failure=self._refusal, timings=outcome.timings
            )
        self.outcome = outcome
        self.handle = None
        self._stop_waiting()
        self._total_s = perf_counter() - self._started_at
        name = b"result" if isinstance(outcome, Result) else b"error"
        shown = msgspec.Raw(json_line(outcome.value)) if isinstance(outcome, Result) else None
        self._keep(name, answer_of(outcome, self._total_s, output=shown))
        self._ended.set()
        if isinstance(outcome, Failed):
            self._jobs.report(outcome.failure)
        self._jobs.note_end(self)

    # -- room --------------------------------------------------------------------------------------

    def make_room(self) -> None:
        """Forget what every reader has, while there is too much; wait where that is not enough."""
        limit = self._jobs.limits.max_job_bytes
        if self.size_bytes > limit:
            passed = min((reader.at for reader in self.readers), default=self._first)
            count = 0
            while self.size_bytes > limit // 2 and self._first + count < passed:
                self.size_bytes -= len(self._kept[count].data)
                count += 1
            del self._kept[:count]
            self._first += count
        handle = self.handle
        if handle is None:
            return
        if self.size_bytes <= limit:
            if self._patience is not None:
                self._stop_waiting()
                handle.resume()
        elif self._patience is None:
            handle.pause()
            self._patience = self._loop.call_later(self._jobs.limits.patience_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        limit = self._jobs.limits.max_job_bytes
        error = OutputTooLargeError(
            f"the request has produced more than {limit} bytes, and nobody reads them: "
            "follow its events",
            size_bytes=self.size_bytes,
            max_bytes=limit,
        )
        self._refusal = classify(error, origin="input")
        if self.handle is not None:
            self.handle.cancel("interrupt")

    # -- what clients ask --------------------------------------------------------------------------

    async def wait(self) -> None:
        await self._ended.wait()

    def cancel(self, reason: CancelReason) -> bool:
        if self.outcome is not None or self._is_canceled or self.handle is None:
            return False
        self._is_canceled = True
        self.handle.cancel(reason)
        return True

    def read(self, after: int) -> MemoryReader:
        reader = MemoryReader(self, min(max(after, 0) + 1, self.next_id))
        self.readers.add(reader)
        return reader

    def frames(self, start: int, max_bytes: int) -> tuple[bytes, int]:
        """Return events from an id on, as many as fit and at least one, and the id behind them."""
        parts: list[bytes] = []
        size = 0
        if start < self._first:
            gap = msgspec.json.encode({"from": start, "to": self._first - 1})
            parts.append(frame(b"gap", gap))
            start = self._first
        for index in range(start - self._first, len(self._kept)):
            kept = self._kept[index]
            if parts and size + len(kept.data) > max_bytes:
                break
            parts.append(frame(kept.name, kept.data, start))
            size += len(kept.data)
            start += 1
        return b"".join(parts), start


class MemoryReader:
    """One client that follows a job in memory."""

    _MAX_BYTES = 256 * 1024

    def __init__(self, job: MemoryJob, at: int) -> None:
        self.at = at
        """Id of the next event to read."""
        self._job = job
        self._wake = asyncio.Event()
        self._is_pinged = False

    def wake(self) -> None:
        self._wake.set()

    def ping(self) -> None:
        """Have `read` return, with nothing but a sign of life when there is nothing else."""
        self._is_pinged = True
        self._wake.set()

    async def read(self) -> bytes:
        job = self._job
        while True:
            data, self.at = job.frames(self.at, self._MAX_BYTES)
            if data:
                self._is_pinged = False
                job.make_room()
                return data
            if job.outcome is not None:
                return b""
            if self._is_pinged:
                self._is_pinged = False
                return COMMENT
            self._wake.clear()
            await self._wake.wait()

    def close(self) -> None:
        self._job.readers.discard(self)
        self._job.make_room()
