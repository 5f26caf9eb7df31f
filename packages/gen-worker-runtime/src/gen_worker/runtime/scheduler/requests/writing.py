"""What is said of a request goes to disk in the order in which it was said.

One step of a request is written at a time, and what it produces meanwhile is written together with
the next: a step for which the disk has no room cannot be overtaken by one for which it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from gen_worker.errors import RetryableError
from gen_worker.runtime.scheduler.changes import Assign
from gen_worker.runtime.scheduler.errors import DamagedLedgerError, LedgerWriteError

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Sequence

    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests.live import Live
    from gen_worker.runtime.scheduler.values import Ending, NewEvent, RequestRecord

__all__ = ["Again", "End", "Produce", "Step", "Writer"]

_log = logging.getLogger("gen_worker.scheduler")
_FIRST_RETRY_S = 0.05
_MAX_RETRY_S = 5.0
_MAX_TOGETHER = 1024
"""Events of one step."""


class Step(Protocol):
    """One thing to be written of a request."""

    dones: list[Future[None]]
    """Done once it is on disk, or counts no more."""
    size_bytes: int

    def put(self, ledger: Ledger, seq: int) -> Future[Any]: ...


class Produce:
    """What an attempt has produced."""

    def __init__(self, events: Sequence[NewEvent], done: Future[None]) -> None:
        self.events: list[NewEvent] = []
        self.dones: list[Future[None]] = []
        self.size_bytes = 0
        self.take_in(events, done)

    def take_in(self, events: Sequence[NewEvent], done: Future[None]) -> None:
        self.events += events
        self.dones.append(done)
        self.size_bytes += sum(len(event.data) for event in events)

    def put(self, ledger: Ledger, seq: int) -> Future[Any]:
        return ledger.append(seq, self.events)


class Again:
    """An attempt is over, and the request waits for the next."""

    size_bytes = 0

    def __init__(self, attempt: int, due_at: float) -> None:
        self.attempt = attempt
        self.due_at = due_at
        self.dones: list[Future[None]] = []

    def put(self, ledger: Ledger, seq: int) -> Future[Any]:
        return ledger.requeue(seq, self.attempt, due_at=self.due_at)


class End:
    """How it ends."""

    def __init__(self, record: RequestRecord, ending: Ending, event: NewEvent) -> None:
        self.ending = ending
        self.event = event
        self.assigned: Assign | None = None
        if record.started_at is not None:
            ran = (record.seq, record.worker_id, record.attempt, record.started_at)
            self.assigned = Assign(*ran)
        self.dones: list[Future[None]] = []
        self.size_bytes = len(event.data)

    def put(self, ledger: Ledger, seq: int) -> Future[Any]:
        return ledger.end(seq, self.ending, self.event, self.assigned)


class Writer:
    """Writes steps, each until it is on disk. On the ledger's loop."""

    def __init__(self, ledger: Ledger, written: Callable[[Live, Step, object], None]) -> None:
        """Begin.

        Args:
            ledger: Takes steps.
            written: Told of each what it came to; an exception where that can never be written.
        """
        self._ledger = ledger
        self._written = written
        self._loop = asyncio.get_running_loop()
        self._in_flight = 0
        self._stalled: deque[Live] = deque()
        """Those whose next step has found no room."""
        self._retry: asyncio.TimerHandle | None = None
        self._retry_s = _FIRST_RETRY_S
        self.is_closed = False
        """Whether what is said counts no more."""
        self.size_bytes = 0
        """Of events that are not on disk."""

    @property
    def is_stalled(self) -> bool:
        """Whether some step has found no room."""
        return bool(self._stalled)

    def add(self, live: Live, step: Step) -> None:
        """Write a step after all others of its request."""
        if self.is_closed:
            _settle(step)
            return
        self.size_bytes += step.size_bytes
        if live.pending is None:
            live.pending = deque((step,))
            self._write(live)
        else:
            live.pending.append(step)

    def produce(self, live: Live, events: Sequence[NewEvent]) -> Future[None]:
        """Write what a request produces; done once it is on disk, or counts no more."""
        waiting = live.pending
        last = waiting[-1] if waiting is not None and len(waiting) > 1 else None
        done: Future[None] = self._loop.create_future()
        if isinstance(last, Produce) and len(last.events) < _MAX_TOGETHER:
            before = last.size_bytes
            last.take_in(events, done)
            self.size_bytes += last.size_bytes - before
        else:
            self.add(live, Produce(events, done))
        return done

    def drop(self, live: Live) -> None:
        """Write nothing more of a request."""
        for step in live.pending or ():
            self.size_bytes -= step.size_bytes
            _settle(step)
        live.pending = None

    async def close(self) -> None:
        """Wait for what is being written; what finds no room is given up."""
        while self._in_flight:
            with suppress(LedgerWriteError):
                await self._ledger.flush()
        self.is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        for live in self._stalled:
            self.drop(live)
        self._stalled.clear()

    def _write(self, live: Live) -> None:
        assert live.pending
        step = live.pending[0]
        try:
            future = step.put(self._ledger, live.seq)
        except RetryableError:  # the ledger is closed
            self.drop(live)
            return
        self._in_flight += 1
        future.add_done_callback(lambda future: self._settled(live, step, future))

    def _settled(self, live: Live, step: Step, future: Future[object]) -> None:
        self._in_flight -= 1
        error = future.exception()
        if isinstance(error, (LedgerWriteError, DamagedLedgerError)):
            self._stall(live)
            return
        self._resume()
        if live.pending is None:
            return
        live.pending.popleft()
        self.size_bytes -= step.size_bytes
        try:
            self._written(live, step, error or future.result())
        except Exception:  # the others go on
            _log.exception("what became of request %r", live.request_id)
        _settle(step)
        if live.pending:
            self._write(live)
        else:
            live.pending = None

    # -- a disk without room -----------------------------------------------------------------------

    def _stall(self, live: Live) -> None:
        self._stalled.append(live)
        if self._retry is None and not self.is_closed:
            self._retry = self._loop.call_later(self._retry_s, self._try_one)
            self._retry_s = min(2 * self._retry_s, _MAX_RETRY_S)

    def _try_one(self) -> None:
        self._retry = None
        live = self._stalled.popleft() if self._stalled else None
        if live is not None and live.pending:
            self._write(live)

    def _resume(self) -> None:
        """Go on with all of them, as there is room for one."""
        self._retry_s = _FIRST_RETRY_S
        if not self._stalled:
            return
        stalled, self._stalled = self._stalled, deque()
        for live in stalled:
            if live.pending:
                self._write(live)


def _settle(step: Step) -> None:
    for done in step.dones:
        if not done.done():
            done.set_result(None)
