"""What becomes of requests: each thing that happens to one, and what it leads to."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from gen_worker.errors import classify
from gen_worker.runtime.scheduler.last_events import last_event
from gen_worker.runtime.scheduler.requests import marks, records
from gen_worker.runtime.scheduler.requests.endings import canceled_ending, failed_ending
from gen_worker.runtime.scheduler.requests.lives import Lives
from gen_worker.runtime.scheduler.requests.writing import Again, End, Produce, Writer

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests.live import Live, Runner
    from gen_worker.runtime.scheduler.requests.writing import Step
    from gen_worker.runtime.scheduler.values import Ending, NewEvent, Requeued, StoredEvent
    from gen_worker.runtime.scheduler.waiting import Waiting

__all__ = ["Course"]

_log = logging.getLogger("gen_worker.scheduler")


class Course:
    """How each request goes on. On the ledger's loop."""

    runner: Runner

    def __init__(
        self,
        ledger: Ledger,
        waiting: Waiting,
        clock: Callable[[], float],
        cancel_grace_s: float,
    ) -> None:
        self.lives = Lives(waiting, clock, self._rung)
        self.writer = Writer(ledger, self._written)
        self._ledger = ledger
        self._clock = clock
        self._cancel_grace_s = cancel_grace_s
        self._loop = asyncio.get_running_loop()

    def push(self, live: Live) -> None:
        """Have it wait for its turn, and somebody look."""
        self.lives.enqueue(live)
        self.runner.wake(live.queue)

    def run(self, live: Live, worker_id: str) -> None:
        """Have a worker run it, unless it is over; it waits no longer."""
        reason = live.cancel_reason
        if self.writer.is_closed:
            return
        if not live.is_ending and (live.place, live.worker_id) != ("worker", worker_id):
            self.lives.dequeue(live)
            live.place = "worker"
            now = self._clock()
            live.record = records.running(live.record, worker_id, now)
            self._ledger.assign(live.seq, worker_id, live.attempt, at=now)
            self.lives.tell(live, ())
        if live.is_ending or reason is not None:  # while it was on its way
            self._loop.call_soon(self.runner.interrupt, live, reason or "interrupt")

    async def cancel(self, live: Live, reason: CancelReason) -> bool:
        """Cancel it, so that a restart does not forget it; False when it is, or ends."""
        if live.cancel_reason is not None or live.is_ending:
            return False
        await marks.note_cancel(self._ledger, live.seq, reason)
        if live.cancel_reason is not None or live.is_ending:
            return False
        ended = self.stop(live, reason)
        if ended is not None:
            await ended
        return True

    def stop(self, live: Live, reason: CancelReason) -> Future[None] | None:
        """Have a request end; return its end when it does so at once."""
        live.cancel_reason = reason
        ended, is_running = None, live.place == "worker"
        if is_running and reason != "deadline":
            self.lives.end_by(live, self._clock() + self._cancel_grace_s)
        else:
            ended = self.end(live, canceled_ending(live.record, reason))
        if is_running:
            self.runner.interrupt(live, reason)
        return ended

    def end(self, live: Live, ending: Ending) -> Future[None]:
        """Have it end, whatever its worker says."""
        live.is_ending = True
        self.lives.dequeue(live)
        event = last_event(live.record, ending, now=self._clock())
        return self.write(live, End(live.record, ending, event))

    def write(self, live: Live, step: Step) -> Future[None]:
        """Have a step written; done once it is on disk, or counts no more."""
        done: Future[None] = self._loop.create_future()
        step.dones.append(done)
        self.writer.add(live, step)
        return done

    def done(self) -> Future[None]:
        done: Future[None] = self._loop.create_future()
        done.set_result(None)
        return done

    def _rung(self, live: Live, now: float) -> None:
        if live.is_ending:
            return
        if live.ends_by is not None:
            if live.ends_by <= now and live.cancel_reason is not None:
                self.end(live, canceled_ending(live.record, live.cancel_reason))
        elif live.record.deadline_at is not None and live.record.deadline_at <= now:
            self.stop(live, "deadline")
        elif live.place == "later" and live.record.due_at <= now:
            self.push(live)

    # -- what is on disk ---------------------------------------------------------------------------

    def _written(self, live: Live, step: Step, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            self._refused(live, step, outcome)
        elif isinstance(step, Produce):
            self._kept(live, step.events, outcome)
        elif isinstance(step, Again):
            self._again(live, step, outcome)
        elif isinstance(step, End) and outcome is not None:
            self._over(live, step.ending, outcome)

    def _refused(self, live: Live, step: Step, error: Exception) -> None:
        """End a request of which something can never be written, such as too many events."""
        if isinstance(step, Produce):
            if not live.is_ending:
                if live.place == "worker":
                    self.runner.interrupt(live, "interrupt")
                self.end(live, failed_ending(classify(error)))
            return
        _log.error("request %r cannot be written: %s", live.request_id, error)

    def _kept(
        self, live: Live, events: Sequence[NewEvent], stored: tuple[StoredEvent, ...]
    ) -> None:
        if stored:
            live.record = records.grown(live.record, events, stored)
            self.lives.tell(live, stored)

    def _again(self, live: Live, step: Again, again: Requeued | None) -> None:
        if again is None:
            return
        live.record = records.requeued(live.record, again, step.due_at)
        self.lives.tell(live, () if again.event is None else (again.event,))
        if not live.is_ending:
            self.lives.defer(live)

    def _over(self, live: Live, ending: Ending, event: StoredEvent) -> None:
        if live.place == "worker" and ending.attempt not in (0, live.attempt):
            self.runner.interrupt(live, "interrupt")  # an earlier attempt was successful after all
        live.is_ending = True
        live.record = records.ended(live.record, ending, event, self._clock())
        self.lives.tell(live, (event,))
        self.lives.forget(live)
        self.writer.drop(live)
        if live.lost or live.cancel_reason is not None:
            self.unheard(marks.forget(self._ledger, live.seq))

    def unheard(self, future: Future[None]) -> None:
        """Let something be written that is only of use after a restart."""
        future.add_done_callback(lambda future: future.exception())
