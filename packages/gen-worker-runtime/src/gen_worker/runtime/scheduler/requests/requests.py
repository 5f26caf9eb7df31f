"""The requests that have not ended: the owner of ledger and queue while the scheduler runs."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from gen_worker.runtime.scheduler.changes import may_be_tried_again, require_same
from gen_worker.runtime.scheduler.errors import LedgerWriteError
from gen_worker.runtime.scheduler.job_options import JobOptions
from gen_worker.runtime.scheduler.queries import record_by_key
from gen_worker.runtime.scheduler.requests import marks, records
from gen_worker.runtime.scheduler.requests.calls import Calls
from gen_worker.runtime.scheduler.requests.course import Course
from gen_worker.runtime.scheduler.requests.endings import canceled_ending, failed_ending
from gen_worker.runtime.scheduler.requests.options import RequestOptions
from gen_worker.runtime.scheduler.requests.policy import Attempts
from gen_worker.runtime.scheduler.requests.queues import queue_of
from gen_worker.runtime.scheduler.requests.reading import unfinished
from gen_worker.runtime.scheduler.requests.writing import Again, End
from gen_worker.runtime.scheduler.values import StoredCall
from gen_worker.runtime.scheduler.waiting import Waiting

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests.live import Live, Runner, Watcher
    from gen_worker.runtime.scheduler.values import (
        Ending,
        NewEvent,
        RequestRecord,
        Submission,
        Submitted,
    )

__all__ = ["Requests"]


class Requests:
    """All requests that have not ended. On the ledger's loop."""

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
        self._clock, self._random = clock, random
        self._loop = asyncio.get_running_loop()
        self._waiting = Waiting(options.waiting, weight_of=weight_of, clock=clock)
        self._course = Course(ledger, self._waiting, clock, options.cancel_grace_s)
        self._lives = self._course.lives
        self._calls = Calls()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Requests {len(self)} of which {len(self._waiting)} wait>"

    @property
    def runner(self) -> Runner:
        """Who has them run; set before `start`."""
        return self._course.runner

    @runner.setter
    def runner(self, runner: Runner) -> None:
        self._course.runner = runner

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
        while self._tasks and not self._course.writer.is_stalled:
            with suppress(LedgerWriteError):
                await self._ledger.flush()
        await self._course.writer.close()
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
        room = self._waiting.room(queue, submission.owner)
        room.__enter__()
        try:
            submitted = self._ledger.submit(replace(submission, options=data))
        except BaseException:
            room.__exit__(None, None, None)
            raise
        # Of its own, so that who stops waiting for it takes nothing back.
        accepted: Future[Submitted] = self._loop.create_future()
        call = StoredCall(submission.payload, data)
        submitted.add_done_callback(partial(self._submitted, room, queue, call, accepted))
        return await accepted

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
        task = asyncio.create_task(self._course.cancel(live, reason))
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
        if live.is_ending or live.place not in ("dispatcher", "worker") or self._is_closed:
            return
        if live.place == "worker":
            live.record = records.waiting(live.record)
            # What is running and has no worker waits again after a restart.
            self._ledger.assign(live.seq, "", live.attempt, at=self._clock())
            if live.cancel_reason is not None:
                self._course.end(live, canceled_ending(live.record, live.cancel_reason))
                return
        self._course.push(live)

    async def call(self, live: Live) -> StoredCall:
        """Return what a worker is given of a request.

        Raises:
            LookupError: It has ended, and was forgotten.
        """
        found = self._calls.take(live.seq) or await self._ledger.call(live.seq)
        if found is None:
            raise LookupError(f"request {live.request_id!r} is gone from the ledger")
        return found

    def given(self, live: Live, worker_id: str) -> int:
        """Note that a worker was given a request that was taken; return the attempt's number."""
        self._course.run(live, worker_id)
        return live.attempt

    def adopted(self, live: Live, worker_id: str) -> int | None:
        """Take a worker's word that it runs a request, as after a restart of the scheduler.

        Returns:
            The attempt it goes on with, also one that waited meanwhile. None: it has ended, or
            another worker has it.
        """
        record = live.record
        is_waiting = live.place in ("queue", "later")
        # Of what was streamed before the attempt began anew, the worker will not say it again.
        is_torn = is_waiting and record.attempt > 1 and record.last_event_id > 0
        if live.is_ending or is_torn or not (is_waiting or record.worker_id == worker_id):
            return None
        self._course.run(live, worker_id)
        return live.attempt

    def produced(self, live: Live, attempt: int, events: Sequence[NewEvent]) -> Future[None]:
        """Keep what an attempt has produced; done once that is on disk, or counts no more.

        Only the attempt and the sequence of each event decide whether it is new. Await it, or
        stop reading from the worker while `is_behind`.
        """
        if live.is_ending or attempt != live.attempt:
            return self._course.done()
        return self._course.writer.produce(live, events)

    def ended(self, live: Live, attempt: int, ending: Ending, event: NewEvent) -> Future[None]:
        """End a request, after all that it has produced; done once that is on disk.

        Of a request that is being canceled, a failure is its cancel. Of an attempt that is over
        only a result counts that was not streamed.
        """
        is_late = attempt != live.attempt
        if live.is_ending or (is_late and (ending.is_streamed or ending.failure is not None)):
            return self._course.done()
        if ending.failure is not None and live.cancel_reason is not None:
            return self._course.end(live, canceled_ending(live.record, live.cancel_reason))
        if not is_late:
            live.is_ending = True
            self._lives.dequeue(live)
        return self._course.write(live, End(live.record, ending, event))

    def failed(
        self, live: Live, attempt: int, failure: Failure, *, is_worker_lost: bool = False
    ) -> Future[None]:
        """Have a request that failed tried again, or end it; done once that is on disk.

        Nothing happens when that attempt is over already.
        """
        is_present = attempt == live.attempt and live.place in ("dispatcher", "worker")
        if live.is_ending or not is_present or self._is_closed:
            return self._course.done()
        if live.cancel_reason is not None:
            return self._course.end(live, canceled_ending(live.record, live.cancel_reason))
        live.lost += is_worker_lost
        attempts, policy = Attempts(attempt, live.lost), self._options.retries
        word = policy.last_word(attempts, failure, is_worker_lost=is_worker_lost)
        if word is not None:
            return self._course.end(live, failed_ending(word, attempt=attempt))
        if is_worker_lost:
            self._course.unheard(marks.note_loss(self._ledger, live.seq, live.lost))
        live.place = "between"
        delay_s = policy.delay_s(attempts, failure, self._random)
        return self._course.write(live, Again(attempt, self._clock() + delay_s))

    @property
    def is_behind(self) -> bool:
        """Whether the disk has to catch up before workers are read from."""
        return self._course.writer.size_bytes > self._options.max_uncommitted_bytes

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

    @property
    def _is_closed(self) -> bool:
        return self._course.writer.is_closed

    # -- in ----------------------------------------------------------------------------------------

    def _submitted(
        self,
        room: AbstractContextManager[None],
        queue: str,
        call: StoredCall,
        accepted: Future[Submitted],
        future: Future[Submitted],
    ) -> None:
        error = future.exception()
        try:
            if error is None and future.result().is_new:
                live = self._lives.add(future.result().record, queue, call.options)
                self._calls.keep(live.seq, call)
                self._lives.tell(live, ())
                self._course.push(live)
        finally:
            room.__exit__(None, None, None)
            if accepted.done():
                pass  # nobody waits for it any more
            elif error is None:
                accepted.set_result(future.result())
            else:
                accepted.set_exception(error)

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
            self._course.stop(live, mark.cancel)
