"""What the dispatcher's parts share: who has which request, and how workers are told things."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from gen_worker.runtime.wire import InterruptJob

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gen_worker.runtime.scheduler.dispatcher.learning import Learning
    from gen_worker.runtime.scheduler.dispatcher.options import DispatchOptions
    from gen_worker.runtime.scheduler.dispatcher.ports import Queues
    from gen_worker.runtime.scheduler.fleet.fleet import Fleet
    from gen_worker.runtime.scheduler.fleet.job import Job
    from gen_worker.runtime.scheduler.fleet.member import Member
    from gen_worker.runtime.scheduler.job_options import JobOptions
    from gen_worker.runtime.scheduler.values import RequestRecord
    from gen_worker.runtime.wire import Inbound

__all__ = ["Core", "cost_key_of"]

_MAX_FORMER = 10_000

_log = logging.getLogger("gen_worker.scheduler.dispatcher")


class Core:
    """Who has what. On the loop."""

    requests: Queues
    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        fleet: Fleet,
        learning: Learning,
        options: DispatchOptions,
        clock: Callable[[], float],
    ) -> None:
        self.fleet = fleet
        self.learning = learning
        self.options = options
        self.clock = clock
        self.given: dict[str, Job] = {}
        """By request id, who has it now."""
        self.former: OrderedDict[tuple[str, str], Job] = OrderedDict()
        """By worker and request id, what a worker had when it was lost, and may still answer."""
        self.running: Counter[str] = Counter()
        """By function, what workers have of it; the keys are those of costs."""
        self._timers: set[asyncio.TimerHandle] = set()
        self.freed: Callable[[Member], None] = lambda member: None
        """Told of a worker that may take more than before."""

    def later(
        self, seconds: float, call: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        """Call something in a while, unless all is closed by then."""

        def ring() -> None:
            self._timers.discard(timer)
            call(*args)

        timer = self.loop.call_later(max(0.0, seconds), ring)
        self._timers.add(timer)
        return timer

    def later_of(self, job: Job, seconds: float, call: Callable[[Job], object]) -> None:
        """Call something about a job in a while, unless it is over by then."""
        job.timers.append(self.later(seconds, call, job))

    def close(self) -> None:
        """Do nothing later any more."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def begin(self, job: Job) -> None:
        """Count a request as given."""
        self.given[job.request_id] = job
        self.running[job.cost_key] += 1

    def finish(self, job: Job) -> None:
        """Count a request as given no more: its worker has answered, or never will."""
        if job.member.jobs.get(job.request_id) is not job:
            return  # it was lost meanwhile
        job.member.remove(job)
        self._settle(job)
        self.freed(job.member)

    def lapse(self, job: Job) -> None:
        """Do the same for a worker that may answer yet."""
        job.member.remove(job)
        self._settle(job)
        self.former[job.member.worker_id, job.request_id] = job
        if len(self.former) > _MAX_FORMER:
            self.former.popitem(last=False)

    def _settle(self, job: Job) -> None:
        for timer in job.timers:
            timer.cancel()
            self._timers.discard(timer)
        job.timers.clear()
        if self.given.get(job.request_id) is job:
            del self.given[job.request_id]
        self.running[job.cost_key] -= 1
        if self.running[job.cost_key] <= 0:
            del self.running[job.cost_key]

    def tell(self, member: Member, command: Inbound | bytes) -> bool:
        """Send a worker a command, and tell whether it was taken."""
        session = member.session
        if session is None or not session.send(command):
            return False
        member.told_at = self.clock()
        return True

    def interrupt(self, job: Job) -> None:
        """Have a worker stop what it was given; its slot is free when it says so, or after long."""
        if job.is_interrupted:
            return
        job.is_interrupted = True
        if job.is_sent:
            self.tell(job.member, InterruptJob(request_id=job.request_id))
            self.later_of(job, self.options.stuck_after_s, self._give_up)

    def _give_up(self, job: Job) -> None:
        if job.member.jobs.get(job.request_id) is job and job.live.is_over:
            _log.warning("%r does not stop: its slot is given to others", job)
            self.finish(job)

    def may_run(self, record: RequestRecord, options: JobOptions) -> bool:
        """Tell whether one more of a function may run, as the operator says."""
        limits = self.options.max_running
        if not limits:
            return True
        key = cost_key_of(record, options)
        names = (key, f"{record.endpoint}/{record.function}", record.function)
        limit = next((limits[name] for name in names if name in limits), 0)
        return not limit or self.running[key] < limit


def cost_key_of(record: RequestRecord, options: JobOptions) -> str:
    """Return what a function is called across releases."""
    return f"{options.endpoint_owner}/{record.endpoint}/{record.function}"
