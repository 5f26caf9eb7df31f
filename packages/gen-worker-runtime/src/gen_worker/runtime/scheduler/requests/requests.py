"""The requests that have not ended: the owner of ledger and queue while the scheduler runs."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from gen_worker.errors import classify
from gen_worker.runtime.scheduler.changes import may_be_tried_again, require_same
from gen_worker.runtime.scheduler.job_options import JobOptions
from gen_worker.runtime.scheduler.last_events import last_event
from gen_worker.runtime.scheduler.queries import record_by_key
from gen_worker.runtime.scheduler.requests import marks, records
from gen_worker.runtime.scheduler.requests.endings import canceled_ending, failed_ending
from gen_worker.runtime.scheduler.requests.lives import Lives
from gen_worker.runtime.scheduler.requests.policy import Attempts, RetryPolicy
from gen_worker.runtime.scheduler.requests.queues import queue_of
from gen_worker.runtime.scheduler.requests.reading import unfinished
from gen_worker.runtime.scheduler.requests.writing import Again, End, Produce, Writer
from gen_worker.runtime.scheduler.waiting import Waiting, WaitingLimits

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests.live import Live, Runner, Watcher
    from gen_worker.runtime.scheduler.requests.writing import Step
    from gen_worker.runtime.scheduler.values import (
        Ending,
        NewEvent,
        RequestRecord,
        Requeued,
        StoredCall,
        StoredEvent,
        Submission,
        Submitted,
    )

__all__ = ["RequestOptions", "Requests"]

_log = logging.getLogger("gen_worker.scheduler")


class RequestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How requests wait, and how long they are waited for."""

    waiting: WaitingLimits = WaitingLimits()
    retries: RetryPolicy = RetryPolicy()
    cancel_grace_s: float = 5.0
    """How long a worker may take to stop a request before it is ended as canceled anyway."""
    max_uncommitted_bytes: int = 64 * 1024**2
    """What workers have said and the disk has not taken; beyond it `is_behind` says so."""


class Requests:
    """All requests that have not ended. On the ledger's loop."""

    runner: Runner
    """Set before `start`."""

    def __init__(
        self,
        ledger: Ledger,
        options: RequestOptions | None = None,
        *,
        clock: Callable[[], float],
        weight_of: Callable[[str], float] = lambda _owner: 1.0,
        random: Callable[[], float] = random.random,
    ) -> None:
        """Begin with none; `start` reads those of the ledger.

        Args:
            ledger: Open; closed by its owner after this.
            options: Bounds and times.
            clock: Unix time, the ledger's own.
            weight_of: An owner's share compared with others'.
            random: Gives numbers from 0 up to 1, for the delays of retries.
        """
        self._options = options = options or RequestOptions()
        self._ledger = ledger
        self._clock = clock
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._waiting = Waiting(options.waiting, weight_of=weight_of, clock=clock)
        self._lives = Lives(self._waiting, clock, self._rung)
        self._writer = Writer(ledger, self._written)
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Requests {len(self)} of which {len(self._waiting)} wait>"

    async def start(self) -> None:
        """Read what has not ended. What waited waits again, or until it is due.

        What was running stays with its worker (`running`): the dispatcher says `adopted` once the
        worker names it, or `failed(..., is_worker_lost=True)` when it does not.
        """
        await marks.tidy(self._ledger)
        noted = await self._ledger.ask(marks.marks_of)
        async for found, options in unfinished(self._ledger):
            for record in found:
                self._found(record, options.get(record.seq, b""), noted.get(record.seq))
        for queue in self._waiting.lengths():
            self.runner.wake(queue)

    async def close(self) -> None:
        """Stop timers and wait for what is being written; nothing is accepted any more."""
        self._lives.close()
        await self._writer.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def look(self) -> None:
        """Do what is due by now. It is done without this, but for a clock that has jumped."""
        self._lives.look()

    # -- clients -----------------------------------------------------------------------------------

    async def submit(self, submission: Submission, options: JobOptions) -> Submitted:
        """Accept a request: it is on disk and waits when this returns, also if nobody awaits it.

        It has its place in the ledger's order before this first suspends. The submission's own
        `options` are replaced by the encoded ones.

        Raises:
            OverloadedError: Too many wait.
            KeyConflictError: The key belongs to another request.
            DuplicateRequestError: There is a request with this id.
            LedgerWriteError: The disk is full; it was not accepted.
        """
        data = options.encode()
        queue = queue_of(submission.release_id, submission.function, options.models)
        with ExitStack() as stack:
            stack.enter_context(self._waiting.room(queue, submission.owner))
            submitted = self._ledger.submit(replace(submission, options=data))
            room = stack.pop_all()
        submitted.add_done_callback(partial(self._submitted, room, queue, data))
        return await asyncio.shield(submitted)

    async def earlier(self, owner: str, key: str, digest: bytes) -> RequestRecord | None:
        """Return the request that a key belongs to, if it is not to be tried again.

        Raises:
            KeyConflictError: Its digest is another.
        """
        found = await self._ledger.ask(lambda reader: record_by_key(reader, owner, key))
        if found is None or may_be_tried_again(found):
            return None
        require_same(found, key, digest)
        return found

    async def cancel(self, request_id: str, reason: CancelReason = "caller") -> bool:
        """Cancel a request; False when it has ended, or was canceled before.

        One that waits has ended when this returns. One that runs is interrupted, and ends as
        canceled after `cancel_grace_s`, whatever its worker does; a restart does not forget it.

        Raises:
            LedgerWriteError: The disk is full; nothing is canceled.
        """
        live = self._lives.by_id.get(request_id)
        if live is None:
            return False
        task = self._loop.create_task(self._cancel(live, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def live(self, request_id: str) -> Live | None:
        """Return a request that has not ended; None: ask the ledger."""
        return self._lives.by_id.get(request_id)

    def by_seq(self, seq: int) -> Live | None:
        """Return a request that has not ended; None: ask the ledger."""
        return self._lives.by_seq.get(seq)

    def position(self, request_id: str) -> int | None:
        """Return how many have their turn before; None when it does not wait for its turn."""
        return self._waiting.position(request_id)

    def watch(self, seq: int, watcher: Watcher) -> bool:
        """Have a request followed; False when it has ended, so that the ledger has all of it.

        Watch first, then read what the ledger has: what is told twice has the same numbers.
        """
        live = self._lives.by_seq.get(seq)
        if live is None:
            return False
        live.watchers = (*live.watchers, watcher)
        return True

    def unwatch(self, seq: int, watcher: Watcher) -> None:
        """Follow it no more."""
        live = self._lives.by_seq.get(seq)
        if live is not None:
            live.watchers = tuple(one for one in live.watchers if one is not watcher)

    def watch_all(self, watcher: Watcher) -> None:
        """Have every request followed; `by_seq` still finds one while its end is told."""
        self._lives.watchers = (*self._lives.watchers, watcher)

    # -- the dispatcher ----------------------------------------------------------------------------

    def first(self, queue: str) -> Live | None:
        """Return the request whose turn it is; None when nobody waits."""
        ticket = self._waiting.first(queue)
        return None if ticket is None else self._lives.by_seq[ticket.seq]

    def take(self, queue: str) -> Live | None:
        """Take the request whose turn it is: it is to be given, or put back."""
        ticket = self._waiting.pop(queue)
        if ticket is None:
            return None
        live = self._lives.by_seq[ticket.seq]
        live.place = "dispatcher"
        return live

    def put_back(self, live: Live) -> None:
        """Have a request wait again that no worker has taken; no attempt is spent.

        Nothing happens when it has ended meanwhile, or waits already.
        """
        if live.is_ending or live.place not in ("dispatcher", "worker"):
            return
        if live.place == "worker":
            live.record = records.waiting(live.record)
            # What is running and has no worker waits again after a restart.
            self._ledger.assign(live.seq, "", live.attempt)
            if live.cancel_reason is not None:
                self._end(live, canceled_ending(live.record, live.cancel_reason))
                return
        self._push(live)

    async def call(self, live: Live) -> StoredCall:
        """Return what a worker is given of a request.

        Raises:
            LookupError: It has ended, and was forgotten.
        """
        found = await self._ledger.call(live.seq)
        if found is None:
            raise LookupError(f"request {live.request_id!r} is gone from the ledger")
        return found

    def given(self, live: Live, worker_id: str) -> int:
        """Note that a worker was given a request that was taken; return the attempt's number."""
        self._run(live, worker_id)
        return live.attempt

    def adopted(self, live: Live, worker_id: str) -> int | None:
        """Take a worker's word that it runs a request, as after a restart of the scheduler.

        Returns:
            The attempt it goes on with, also one that waited meanwhile. None: it has ended, or
            another worker has it.
        """
        is_elsewhere = live.place in ("worker", "dispatcher") and live.worker_id != worker_id
        if live.is_ending or live.place == "between" or is_elsewhere:
            return None
        self._lives.dequeue(live)
        self._run(live, worker_id)
        return live.attempt

    def produced(self, live: Live, attempt: int, events: Sequence[NewEvent]) -> Future[None]:
        """Keep what an attempt has produced; done once that is on disk, or counts no more.

        Only the attempt and the sequence of each event decide whether it is new. Await it, or
        stop reading from the worker while `is_behind`.
        """
        if live.is_ending or attempt != live.attempt:
            return self._done()
        return self._writer.produce(live, events)

    def ended(self, live: Live, attempt: int, ending: Ending, event: NewEvent) -> Future[None]:
        """End a request, after all that it has produced; done once that is on disk.

        Of a request that is being canceled, a failure is its cancel. Of an attempt that is over
        only a result counts that was not streamed.
        """
        is_late = attempt != live.attempt
        if live.is_ending or (is_late and (ending.is_streamed or ending.failure is not None)):
            return self._done()
        if ending.failure is not None and live.cancel_reason is not None:
            return self._end(live, canceled_ending(live.record, live.cancel_reason))
        if not is_late:
            live.is_ending = True
            self._lives.dequeue(live)
        return self._add(live, End(ending, event))

    def failed(
        self, live: Live, attempt: int, failure: Failure, *, is_worker_lost: bool = False
    ) -> Future[None]:
        """Have a request that failed tried again, or end it; done once that is on disk.

        Nothing happens when that attempt is over already.
        """
        if live.is_ending or attempt != live.attempt or live.place not in ("dispatcher", "worker"):
            return self._done()
        if live.cancel_reason is not None:
            return self._end(live, canceled_ending(live.record, live.cancel_reason))
        live.lost += is_worker_lost
        attempts, policy = Attempts(attempt, live.lost), self._options.retries
        word = policy.last_word(attempts, failure, is_worker_lost=is_worker_lost)
        if word is not None:
            return self._end(live, failed_ending(word, attempt=attempt))
        if is_worker_lost:
            self._unheard(marks.note_loss(self._ledger, live.seq, live.lost))
        live.place = "between"
        delay_s = policy.delay_s(attempts, failure, self._random)
        return self._add(live, Again(attempt, self._clock() + delay_s))

    @property
    def is_behind(self) -> bool:
        """Whether the disk has to catch up before workers are read from."""
        return self._writer.size_bytes > self._options.max_uncommitted_bytes

    # -- what is known -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._lives.by_seq)

    def __iter__(self) -> Iterator[Live]:
        return iter(tuple(self._lives.by_seq.values()))

    def running(self) -> Iterator[Live]:
        """Yield those that a worker has, or had when the scheduler was stopped."""
        return (live for live in self if live.place == "worker")

    def length(self, queue: str) -> int:
        """Return how many wait for their turn in a queue."""
        return self._waiting.length(queue)

    def queues(self) -> dict[str, int]:
        """Return how many wait for their turn, by queue; empty queues are left out."""
        return self._waiting.lengths()

    def oldest(self, queue: str) -> float | None:
        """Return when the request came that waits longest; None when nobody waits."""
        return self._waiting.oldest(queue)

    # -- in ----------------------------------------------------------------------------------------

    def _submitted(
        self, room: ExitStack, queue: str, options: bytes, future: Future[Submitted]
    ) -> None:
        with room:
            if future.cancelled() or future.exception() is not None:
                return
            record, is_new = future.result()
            if is_new:
                live = self._lives.add(record, queue, options)
                self._lives.tell(live, ())
                self._push(live)

    def _found(self, record: RequestRecord, options: bytes, mark: marks.Mark | None) -> None:
        """Go on with a request that had not ended when the scheduler was stopped."""
        models = JobOptions.decode(options).models
        queue = queue_of(record.release_id, record.function, models)
        live = self._lives.add(record, queue, options)
        if mark is not None:
            live.lost = mark.lost
        if record.worker_id:
            live.place = "worker"
        else:
            live.record = records.waiting(record)
            if record.due_at > self._clock():
                self._lives.defer(live)
            else:
                self._lives.enqueue(live)
        self._lives.tell(live, ())
        if mark is not None and mark.cancel is not None:
            self._stop(live, mark.cancel)

    def _push(self, live: Live) -> None:
        self._lives.enqueue(live)
        self.runner.wake(live.queue)

    # -- out ---------------------------------------------------------------------------------------

    def _run(self, live: Live, worker_id: str) -> None:
        reason = live.cancel_reason
        if not live.is_over:
            live.place = "worker"
            live.record = records.running(live.record, worker_id, self._clock())
            self._ledger.assign(live.seq, worker_id, live.attempt)
            self._lives.tell(live, ())
        if live.is_ending or reason is not None:  # while it was on its way
            self._loop.call_soon(self.runner.interrupt, live, reason or "interrupt")

    async def _cancel(self, live: Live, reason: CancelReason) -> bool:
        if live.cancel_reason is not None or live.is_over or live.is_ending:
            return False
        await marks.note_cancel(self._ledger, live.seq, reason)
        if live.cancel_reason is not None or live.is_over or live.is_ending:
            return False
        ended = self._stop(live, reason)
        if ended is not None:
            await ended
        return True

    def _stop(self, live: Live, reason: CancelReason) -> Future[None] | None:
        """Have a request end; return its end when it does so at once."""
        live.cancel_reason = reason
        is_running = live.place == "worker"
        if is_running:
            self.runner.interrupt(live, reason)
        if live.is_over or live.is_ending:  # the worker was not to be reached
            return None
        if is_running and reason != "deadline":
            self._lives.end_by(live, self._clock() + self._options.cancel_grace_s)
            return None
        return self._end(live, canceled_ending(live.record, reason))

    def _end(self, live: Live, ending: Ending) -> Future[None]:
        live.is_ending = True
        self._lives.dequeue(live)
        return self._add(live, End(ending, last_event(live.record, ending, now=self._clock())))

    def _add(self, live: Live, step: Step) -> Future[None]:
        done: Future[None] = self._loop.create_future()
        step.dones.append(done)
        self._writer.add(live, step)
        return done

    def _done(self) -> Future[None]:
        done: Future[None] = self._loop.create_future()
        done.set_result(None)
        return done

    def _rung(self, live: Live, now: float) -> None:
        if live.is_ending:
            return
        if live.ends_by is not None:
            if live.ends_by <= now and live.cancel_reason is not None:
                self._end(live, canceled_ending(live.record, live.cancel_reason))
        elif live.record.deadline_at is not None and live.record.deadline_at <= now:
            self._stop(live, "deadline")
        elif live.place == "later" and live.record.due_at <= now:
            self._push(live)

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
                self._end(live, failed_ending(classify(error)))
            return
        _log.error("request %r cannot be written: %s", live.request_id, error)

    def _kept(
        self, live: Live, events: Sequence[NewEvent], stored: tuple[StoredEvent, ...]
    ) -> None:
        if stored:
            live.record = records.grown(live.record, events, stored)
            self._lives.tell(live, stored)

    def _again(self, live: Live, step: Again, again: Requeued | None) -> None:
        if again is None:
            return
        live.record = records.requeued(live.record, again, step.due_at)
        self._lives.tell(live, () if again.event is None else (again.event,))
        if not live.is_ending:
            self._lives.defer(live)

    def _over(self, live: Live, ending: Ending, event: StoredEvent) -> None:
        if live.place == "worker" and ending.attempt not in (0, live.attempt):
            self.runner.interrupt(live, "interrupt")  # an earlier attempt was successful after all
        live.is_ending = True
        live.record = records.ended(live.record, ending, event, self._clock())
        self._lives.tell(live, (event,))
        self._lives.forget(live)
        self._writer.drop(live)
        if live.lost or live.cancel_reason is not None:
            self._unheard(marks.forget(self._ledger, live.seq))

    def _unheard(self, future: Future[None]) -> None:
        """Let something be written that is only of use after a restart."""
        future.add_done_callback(lambda future: future.exception())
