"""One submitted request in this process's memory, and those who follow it."""

from __future__ import annotations

import asyncio
import time
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.errors import Failure, OutputTooLargeError, classify
from gen_worker.events import Delta, Failed, Result
from gen_worker.runtime.http.answers import answer_of, json_line, record_of
from gen_worker.runtime.http.sse import COMMENT, frame, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.events import Event
    from gen_worker.runtime.engine import Invocation
    from gen_worker.runtime.http.backend import Handle
    from gen_worker.runtime.http.jobs import Status
    from gen_worker.runtime.http.memory_jobs import JobLimits

__all__ = ["MemoryJob", "MemoryReader"]


class _Kept(NamedTuple):
    name: bytes
    data: bytes
    """JSON on one line."""


class MemoryJob:
    """One request: the `Sink` of its call, and the events it has produced."""

    wants_events = True
    handle: Handle | None = None

    def __init__(
        self,
        invocation: Invocation,
        key: str,
        limits: JobLimits,
        ended: Callable[[MemoryJob], object],
    ) -> None:
        """Be the sink of a call that is yet to be submitted.

        Args:
            invocation: What is called.
            key: The caller's `Idempotency-Key`.
            limits: How much is kept of it.
            ended: Told on the loop that it has ended.
        """
        self.request_id = invocation.request_id
        self.function = invocation.function
        self.owner = invocation.owner
        self.key = key
        self.readers: set[MemoryReader] = set()
        self.size_bytes = 0
        self.outcome: Result | Failed | None = None
        self._limits = limits
        self._tell = ended
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
    def last_event_id(self) -> int:
        return self.next_id - 1

    @property
    def failure(self) -> Failure | None:
        return self.outcome.failure if isinstance(self.outcome, Failed) else None

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

    async def answer(self) -> bytes:
        more = {
            "status": self.status,
            "function": self.function,
            "created_at": self._created_at,
            "last_event_id": self.last_event_id,
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
        elif self.size_bytes > self._limits.max_job_bytes:
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
        self._tell(self)

    # -- room --------------------------------------------------------------------------------------

    def make_room(self) -> None:
        """Forget what every reader has, while there is too much; wait where that is not enough."""
        limit = self._limits.max_job_bytes
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
            self._patience = self._loop.call_later(self._limits.patience_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        limit = self._limits.max_job_bytes
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

    async def cancel(self, reason: CancelReason) -> bool:
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
