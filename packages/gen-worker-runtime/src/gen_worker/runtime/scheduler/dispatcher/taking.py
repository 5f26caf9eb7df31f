"""What workers make of requests: results, streamed output, reports."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import OutputTooLargeError, RetryableError, classify
from gen_worker.runtime.scheduler.dispatcher.reading import (
    ENDS,
    delta_event,
    failure_of,
    is_refusal,
    reported_event,
    timings_of,
    value_of,
)
from gen_worker.runtime.scheduler.last_events import last_event
from gen_worker.runtime.scheduler.values import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gen_worker.errors import Failure
    from gen_worker.runtime.scheduler.dispatcher.core import Core
    from gen_worker.runtime.scheduler.dispatcher.pressure import Pressure
    from gen_worker.runtime.scheduler.fleet.job import Job
    from gen_worker.runtime.scheduler.fleet.member import Member
    from gen_worker.runtime.scheduler.values import NewEvent
    from gen_worker.runtime.wire import (
        JobResult,
        StreamDone,
        StreamError,
        TokenDelta,
        WorkerEvent,
    )

__all__ = ["Taking"]

_IN_THREAD_BYTES = 256 * 1024
"""A result that is larger is not made into JSON on the loop, which others wait for."""
_STRAGGLERS_S = 0.02
"""For the last reports of a request that has reported before, or fails: they have a stream of their
own."""
_FREE_REFUSALS = 16
"""Of one request by busy workers; each further one counts as an attempt."""
_MAX_COUNTED = 10_000
_NEAR_S = 1.0
"""Before a request's deadline, a worker's clock may say that it has passed."""
_REJECTED = "request.rejected"
_UNAVAILABLE = ("hardware_unmet", "function_unavailable")
_BUSY = ("worker_overloaded", "retryable")

_log = logging.getLogger("gen_worker.scheduler.dispatcher")


class Taking:
    """Takes what workers say of requests. On the loop."""

    def __init__(
        self,
        core: Core,
        pressure: Pressure,
        adopt: Callable[[Member, str], Job | None],
        answered: Callable[[Member, str], None],
    ) -> None:
        """Prepare.

        Args:
            core: Who has what.
            pressure: Counts what is yet to be written.
            adopt: Returns the job of a request that a worker names and was not given, if it is
                to go on with it.
            answered: Told of a request that a worker has ended.
        """
        self._core = core
        self._pressure = pressure
        self._adopt = adopt
        self._answered = answered
        self._refusals: OrderedDict[int, int] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for what is being made into JSON."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- results -----------------------------------------------------------------------------------

    def result(self, member: Member, result: JobResult) -> None:
        """Take the one answer to a request; it may come twice."""
        self._answered(member, result.request_id)
        job = member.jobs.get(result.request_id) or self._unknown(member, result)
        if job is None or job.result is not None or not job.is_sent:
            return
        if job.is_over or job.live.is_over:
            self._core.finish(job)
            return
        job.result = result
        if not result.success:
            self._fail(job, result)
        elif result.payload:
            self._succeeded(job, result)
        else:
            self._complete(job)
            if not job.is_over:
                grace_s = self._core.options.stream_grace_s
                self._core.later_of(job, grace_s, self._give_stream_up)

    def _unknown(self, member: Member, result: JobResult) -> Job | None:
        """Return the job of a result that is nobody's here, if there is one.

        A failure has none: it may be the repetition of one that was taken, and the request be
        waiting to be tried again.
        """
        former = self._core.former.pop((member.worker_id, result.request_id), None)
        if former is not None:
            self._late(former, result)
            return None
        return self._adopt(member, result.request_id) if result.success else None

    def _succeeded(self, job: Job, result: JobResult) -> None:
        """End a request whose output is all here."""
        size_bytes, most = job.output_bytes + len(result.payload), self._core.options
        if 0 < most.max_output_bytes < size_bytes:
            self._too_large(job, size_bytes)
        elif len(result.payload) > _IN_THREAD_BYTES:
            self._begin(self._convert(job, result))
        elif job.has_reported and not job.is_reported:
            self._core.later(_STRAGGLERS_S, self._end, job, result)
        else:
            self._end(job, result)

    async def _convert(self, job: Job, result: JobResult) -> None:
        try:
            value = await asyncio.to_thread(value_of, result)
        except Exception as error:  # what no client can be shown
            self._misfit(job, error)
            return
        self._end(job, result, value)

    def _end(self, job: Job, result: JobResult, value: bytes | None = None) -> None:
        if job.is_over or job.member.jobs.get(job.request_id) is not job:
            return  # it was lost, or ended otherwise, meanwhile
        is_streamed = not result.payload
        if value is None:
            try:
                items = job.stream.next - 1
                value = b'{"yielded":%d}' % items if is_streamed else value_of(result)
            except Exception as error:  # what no client can be shown
                self._misfit(job, error)
                return
        self._tell_end(job, result, value, is_streamed=is_streamed)
        self._learn(job, result)
        job.member.has_run(job, self._core.clock(), self._core.fleet.sizes)
        self._core.finish(job)

    def _tell_end(self, job: Job, result: JobResult, value: bytes, *, is_streamed: bool) -> None:
        core, live = self._core, job.live
        ending = Ending(
            status="succeeded",
            timings=timings_of(result.observation),
            is_streamed=is_streamed,
            attempt=job.attempt,
        )
        event = last_event(live.record, ending, now=core.clock(), value=value)
        job.is_over = True
        core.requests.ended(live, job.attempt, ending, event)

    def _learn(self, job: Job, result: JobResult) -> None:
        if job.facts is None or result.observation is None:
            return
        sizes, hardware = self._core.fleet.sizes, job.member.hardware
        self._core.learning.ran(
            job.cost_key,
            hardware.gpu_class,
            job.facts,
            result.observation,
            is_warm=job.tier == "vram",
            is_alone=job.is_alone and job.gpu_index is not None,
            size_bytes=sum(sizes.get(ref, 0) for ref in job.refs),
        )

    def _late(self, job: Job, result: JobResult) -> None:
        """Take the answer of a worker that was lost: what it has done need not be done again."""
        if result.success and result.payload and not job.live.is_over:
            try:
                value = value_of(result)
            except Exception as error:  # others may do better
                _log.warning("the late result of %r means nothing: %r", job, error)
                return
            self._tell_end(job, result, value, is_streamed=False)

    # -- failures ----------------------------------------------------------------------------------

    def _fail(self, job: Job, result: JobResult) -> None:
        """End an attempt, or wait for what its worker has still to say of why it failed."""
        if job.is_reported or is_refusal(result) or result.error_type == "canceled":
            self._failed(job, result)
        else:
            self._core.later_of(job, _STRAGGLERS_S, self._fail_at_last)

    def _fail_at_last(self, job: Job) -> None:
        is_ours = job.member.jobs.get(job.request_id) is job and not job.is_over
        if is_ours and job.result is not None:
            self._failed(job, job.result)

    def _failed(self, job: Job, result: JobResult) -> None:
        record, kind = job.live.record, result.error_type
        failure = failure_of(result, is_late=self._is_late(job, result))
        is_begun = not is_refusal(result) or job.stream.next > 1
        if kind in _UNAVAILABLE and (not is_begun or kind == "hardware_unmet"):
            job.member.refused_function(job.function, failure.message)
            if job.stream.next == 1:
                self._put_back(job)
                return
        elif kind in _BUSY and result.retryable and not is_begun and self._is_free(record.seq):
            self._refused(job)
            return
        self._core.finish(job)
        self._core.requests.failed(job.live, job.attempt, failure)

    def _is_late(self, job: Job, result: JobResult) -> bool:
        """Tell whether a deadline is why a request was canceled: its own, or its author's."""
        deadline_at = job.live.record.deadline_at
        if deadline_at is not None and self._core.clock() >= deadline_at - _NEAR_S:
            return True
        limit_ms = job.facts.timeout_ms if job.facts is not None else None
        seen = result.observation
        return bool(limit_ms) and seen is not None and seen.runtime_ms >= (limit_ms or 0)

    def _is_free(self, seq: int) -> bool:
        """Count a refusal; tell whether it costs the request nothing."""
        count = self._refusals.pop(seq, 0) + 1
        self._refusals[seq] = count
        if len(self._refusals) > _MAX_COUNTED:
            self._refusals.popitem(last=False)
        return count <= _FREE_REFUSALS

    def _refused(self, job: Job) -> None:
        """Have a request go elsewhere, and its worker left alone for a while."""
        member = job.member
        member.remove(job)
        until = member.refused(self._core.clock())
        self._put_back(job)
        self._core.later(until - self._core.clock(), self._core.freed, member)

    def _put_back(self, job: Job) -> None:
        self._core.finish(job)
        self._core.requests.put_back(job.live)

    def _too_large(self, job: Job, size_bytes: int) -> None:
        """Fail a request that produces more than may be kept, and stop it."""
        error = OutputTooLargeError(
            size_bytes=size_bytes, max_bytes=self._core.options.max_output_bytes
        )
        self._abandon(job, classify(error))

    def _misfit(self, job: Job, error: Exception) -> None:
        """Fail a request whose output nobody can read."""
        _log.error("worker %r answers %r with %r", job.member.worker_id, job.request_id, error)
        self._abandon(job, classify(error))

    def _abandon(self, job: Job, failure: Failure, *, is_worker_lost: bool = False) -> None:
        """Have an attempt end here, whatever its worker goes on to do with it."""
        if job.is_over:
            return
        job.is_over = True
        if job.result is None:
            self._core.interrupt(job)
        else:
            self._core.finish(job)
        self._core.requests.failed(job.live, job.attempt, failure, is_worker_lost=is_worker_lost)

    # -- streams -----------------------------------------------------------------------------------

    def delta(self, member: Member, delta: TokenDelta) -> None:
        """Take one item of a streamed output."""
        job = self._known(member, delta.request_id)
        if job is None:
            return
        due = job.stream.take(delta)
        if due:
            try:
                self._produce(job, [delta_event(one, job.attempt) for one in due])
            except msgspec.MsgspecError as error:
                self._misfit(job, error)
        if job.stream.is_broken:
            self._give_stream_up(job)
        elif job.result is not None:
            self._complete(job)

    def done(self, member: Member, done: StreamDone) -> None:
        """Take the end of a streamed output."""
        job = self._known(member, done.request_id)
        self._answered(member, done.request_id)
        if job is not None:
            job.stream.end(done.sequence)
            self._complete(job)

    def broken(self, member: Member, error: StreamError) -> None:
        """Take note of who runs a request whose stream is not whole; its result says why."""
        self._known(member, error.request_id)

    def _known(self, member: Member, request_id: str) -> Job | None:
        job = member.jobs.get(request_id)
        if job is None and (member.worker_id, request_id) not in self._core.former:
            job = self._adopt(member, request_id)
        return None if job is None or job.is_over or not job.is_sent else job

    def _complete(self, job: Job) -> None:
        """End a streamed request that has its result and its whole stream."""
        if job.result is not None and job.result.success and job.stream.is_whole:
            self._succeeded(job, job.result)

    def lose(self, job: Job) -> None:
        """Have a request run again of which its worker, which is there, says nothing.

        It is not told to stop: what it has done by then need not be done again.
        """
        core, member = self._core, job.member
        core.lapse(job)
        until = member.refused(core.clock())
        core.later(until - core.clock(), core.freed, member)
        silent = RetryableError("its worker said nothing of it for too long")
        core.requests.failed(job.live, job.attempt, classify(silent), is_worker_lost=True)

    def _give_stream_up(self, job: Job) -> None:
        """Have a request run again whose output has a hole that is never filled."""
        if job.member.jobs.get(job.request_id) is job and not job.stream.is_whole:
            _log.warning("%r: its stream is not whole, item %d is missing", job, job.stream.next)
            lost = RetryableError("a part of its output was lost")
            self._abandon(job, classify(lost), is_worker_lost=True)

    # -- reports -----------------------------------------------------------------------------------

    def reported(self, member: Member, event: WorkerEvent) -> None:
        """Take what a worker reports about a request."""
        job = member.jobs.get(event.request_id)
        if job is None or job.is_over or not job.is_sent or event.event_type == _REJECTED:
            return
        job.has_reported = True
        job.heard_at = self._core.clock()
        new = reported_event(event, job.attempt, self._core.clock())
        if new is not None:
            self._produce(job, [new])
        if event.event_type in ENDS:
            job.is_reported = True
            if job.result is not None and job.result.success:
                self._finish_waiting(job, job.result)
            elif job.result is not None:
                self._fail_at_last(job)

    def _finish_waiting(self, job: Job, result: JobResult) -> None:
        """End a request that only waited for its reports."""
        if not result.payload:
            self._complete(job)
        elif len(result.payload) <= _IN_THREAD_BYTES:
            self._end(job, result)

    def _produce(self, job: Job, events: Sequence[NewEvent]) -> None:
        size_bytes = sum(len(event.data) for event in events)
        job.output_bytes += size_bytes
        job.heard_at = self._core.clock()
        if 0 < self._core.options.max_output_bytes < job.output_bytes:
            self._too_large(job, job.output_bytes)
            return
        written = self._core.requests.produced(job.live, job.attempt, events)
        self._pressure.took(job.member, written, size_bytes)

    # -- later -------------------------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._core.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
