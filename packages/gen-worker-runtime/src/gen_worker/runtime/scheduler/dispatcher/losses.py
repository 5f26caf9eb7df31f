"""Workers that come, go and come back, and what becomes of what they had."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from gen_worker.errors import RetryableError, classify
from gen_worker.runtime.scheduler.dispatcher.core import cost_key_of
from gen_worker.runtime.scheduler.fleet.job import Job
from gen_worker.runtime.scheduler.fleet.stream import Stream
from gen_worker.runtime.wire import InterruptJob

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Container

    from gen_worker.errors import Failure
    from gen_worker.runtime.scheduler.dispatcher.core import Core
    from gen_worker.runtime.scheduler.dispatcher.ports import Functions
    from gen_worker.runtime.scheduler.fleet.member import Member
    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.scheduler.requests.live import Live
    from gen_worker.runtime.wire import Registration

__all__ = ["Losses"]

_FREE_LOSSES = 2
"""Times that a request which was just sent, and of which nothing was heard, may be lost with a
connection for nothing: it has hardly been begun."""
_MAX_COUNTED = 10_000

_log = logging.getLogger("gen_worker.scheduler.dispatcher")


class Losses:
    """Compares what workers were given with what they say they have. On the loop."""

    def __init__(self, core: Core, functions: Functions) -> None:
        self._core = core
        self._functions = functions
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unwanted: dict[tuple[str, str], asyncio.TimerHandle] = {}
        """By worker and request id, what it may run for nobody."""
        self._early: dict[str, set[str]] = {}
        """By worker, what it has answered since it was lost, before it said that it is back."""
        self._unheard: OrderedDict[int, int] = OrderedDict()

    def close(self) -> None:
        """Wait for nobody any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._unwanted.clear()

    # -- after a start -----------------------------------------------------------------------------

    def expect(self, live: Live) -> None:
        """Wait for the worker that had a request when the scheduler was stopped."""
        core, record, now = self._core, live.record, self._core.clock()
        member = core.fleet.expect(record.worker_id, now)
        self._add(member, live, connection=0)
        if member.worker_id not in self._timers:
            self._wait_for(member)

    def _add(self, member: Member, live: Live, *, connection: int) -> Job:
        """Count a request as one that a worker has already."""
        core, options, now = self._core, live.options, self._core.clock()
        needs_gpu = bool(member.gpus) and self._needs_gpu(live, options.endpoint_owner)
        job = Job(
            live,
            member,
            gpu_index=0 if needs_gpu else None,
            refs=options.refs,
            now=now,
            ends_at=now + core.options.policy.usual_run_s,
            cost_key=cost_key_of(live.record, options),
        )
        job.attempt, job.connection = live.attempt, connection
        job.stream = Stream(after=live.record.last_sequence)
        member.add(job, now, core.fleet.sizes, now)
        core.begin(job)
        return job

    def _needs_gpu(self, live: Live, owner: str) -> bool:
        record = live.record
        facts = self._functions.known(owner, record.endpoint, record.release_id, record.function)
        return facts is None or facts.resources.needs_gpu

    # -- who comes ---------------------------------------------------------------------------------

    def registered(self, member: Member, session: Session, registration: Registration) -> None:
        """Compare what a worker has with what it was given."""
        timer = self._timers.pop(member.worker_id, None)
        if timer is not None:
            timer.cancel()
        self._let_go(member)
        early = self._early.pop(member.worker_id, set())
        named = frozenset(registration.in_flight_request_ids)
        for job in list(member.jobs.values()):
            if not job.is_sent or job.connection >= session.connection or job.is_answered:
                continue
            if job.request_id in named:
                job.connection = session.connection
                if job.is_interrupted or job.live.is_canceling:
                    self._stop(member, job.request_id, early)
            else:
                self._omitted(job)
        for request_id in registration.in_flight_request_ids:
            if request_id in member.jobs:
                continue
            if self._core.requests.live(request_id) is None:
                self._stop(member, request_id, early)
            elif request_id not in early:
                self.adopt(member, request_id)

    # -- what a worker has for nobody --------------------------------------------------------------

    def _stop(self, member: Member, request_id: str, answered: Container[str] = ()) -> None:
        """Have a worker stop what nobody waits for, unless it answers that now.

        What it names is what it runs, and also what it has ended and is not sure to have told.
        """
        key = member.worker_id, request_id
        if key not in self._unwanted and request_id not in answered:
            unsent_s = self._core.options.unsent_s
            self._unwanted[key] = self._core.later(unsent_s, self._tell_stop, member, request_id)

    def _tell_stop(self, member: Member, request_id: str) -> None:
        del self._unwanted[member.worker_id, request_id]
        job = member.jobs.get(request_id)
        if job is None or job.is_interrupted or job.live.is_canceling:
            self._core.tell(member, InterruptJob(request_id=request_id))

    def _let_go(self, member: Member) -> None:
        for key in [key for key in self._unwanted if key[0] == member.worker_id]:
            self._unwanted.pop(key).cancel()

    def answered(self, member: Member, request_id: str) -> None:
        """Take note that a worker has ended a request: there is nothing to stop."""
        timer = self._unwanted.pop((member.worker_id, request_id), None)
        if timer is not None:
            timer.cancel()
        if not member.is_connected:  # its registration comes on a stream of its own
            self._early.setdefault(member.worker_id, set()).add(request_id)

    def _omitted(self, job: Job) -> None:
        """Have a request run again that its worker knows nothing of, and never will."""
        core, live = self._core, job.live
        core.finish(job)
        if job.is_over or live.is_over:
            return
        is_unheard = job.stream.next == 1 and not job.has_reported and job.result is None
        if is_unheard and self._is_free(live.record.seq):
            core.requests.put_back(live)
        else:
            core.requests.failed(live, job.attempt, _lost(), is_worker_lost=True)

    def _is_free(self, seq: int) -> bool:
        count = self._unheard.pop(seq, 0) + 1
        self._unheard[seq] = count
        if len(self._unheard) > _MAX_COUNTED:
            self._unheard.popitem(last=False)
        return count <= _FREE_LOSSES

    def adopt(self, member: Member, request_id: str) -> Job | None:
        """Return the job of a request that a worker names and was not given by this process.

        None: it is over, somebody else has it, or it cannot go on with half a stream.
        """
        core = self._core
        live = core.requests.live(request_id)
        if live is None or live.is_over:
            return None
        if live.place not in ("queue", "later"):
            self._let_run(member, live)
            return None
        if live.attempt > 1 and self._is_streamed(live):
            # What it has streamed was taken back when the next attempt was made.
            self._stop(member, request_id)
            return None
        if core.requests.adopted(live, member.worker_id) is None:
            self._let_run(member, live)
            return None
        core.former.pop((member.worker_id, request_id), None)
        return self._add(member, live, connection=member.connection)

    def _let_run(self, member: Member, live: Live) -> None:
        """Keep a second run of a request for its result, unless that is a stream."""
        request_id = live.record.request_id
        if self._is_streamed(live):
            self._stop(member, request_id)
            return
        key = (member.worker_id, request_id)
        if key not in self._core.former:
            now = self._core.clock()
            job = Job(live, member, now=now, ends_at=now)
            job.attempt = max(0, live.attempt - 1)
            self._core.former[key] = job

    def _is_streamed(self, live: Live) -> bool:
        record, owner = live.record, live.options.endpoint_owner
        facts = self._functions.known(owner, record.endpoint, record.release_id, record.function)
        return facts is None or facts.is_streamed

    # -- who goes ----------------------------------------------------------------------------------

    def lost(self, member: Member) -> None:
        """Give a worker time to come back, and then what it had to others."""
        is_leaving = member.is_draining and not member.jobs
        if is_leaving:
            self._forget(member)
        elif member.worker_id not in self._timers:
            self._wait_for(member)

    def _wait_for(self, member: Member) -> None:
        core = self._core
        self._timers[member.worker_id] = core.loop.call_later(
            core.options.lost_after_s, self._give_up, member
        )

    def _give_up(self, member: Member) -> None:
        self._timers.pop(member.worker_id, None)
        if member.is_connected:
            return
        jobs = [job for job in member.jobs.values() if job.is_sent and not job.is_answered]
        if jobs:
            count = len(jobs)
            _log.warning("worker %r is lost with %d requests", member.worker_id, count)
        for job in jobs:
            self._core.lapse(job)
            if not job.is_over and not job.live.is_over:
                self._core.requests.failed(job.live, job.attempt, _lost(), is_worker_lost=True)
        self._forget(member)

    def _forget(self, member: Member) -> None:
        self._timers.pop(member.worker_id, None)
        self._early.pop(member.worker_id, None)
        self._let_go(member)
        self._core.fleet.forget(member)


def _lost() -> Failure:
    return classify(RetryableError("the worker was lost"))
