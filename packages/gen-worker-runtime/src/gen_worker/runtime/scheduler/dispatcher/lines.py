"""The queues that wait for workers: whose turn it is to be looked at, and why each waits.

Nothing here looks at all that waits. A queue is looked at when somebody comes to its head, when a
worker that could serve it may take more, and when placement said to ask again.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import (
    FunctionUnavailableError,
    HardwareUnmetError,
    RefCompatibilitySurprise,
    WorkerError,
    classify,
)
from gen_worker.runtime.scheduler.decisions import Give, Never, Wait

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gen_worker.errors import Failure
    from gen_worker.runtime.scheduler.decisions import Decision, Needs
    from gen_worker.runtime.scheduler.dispatcher.core import Core
    from gen_worker.runtime.scheduler.dispatcher.ports import Facts, Functions, Place
    from gen_worker.runtime.scheduler.fleet.member import Member
    from gen_worker.runtime.scheduler.job_options import JobOptions
    from gen_worker.runtime.scheduler.requests.live import Live

    GiveTo = Callable[[Live, JobOptions, Facts, Give], object]

__all__ = ["Line", "Lines"]

_TURN = 64
"""Looks of one turn of the loop, so that workers are heard in between."""
_RUN = 16
"""Requests of one queue in a row, while others wait to be looked at."""
_GLANCES = 32
"""Queues that are looked at for one worker; those it has the models of, and then the ones that
were not looked at for the longest. The others are asked again by their own time."""

_log = logging.getLogger("gen_worker.scheduler.dispatcher")


class Line:
    """One queue in which somebody waits."""

    __slots__ = (
        "deferred",
        "looked",
        "never_since",
        "pool",
        "queue",
        "refs",
        "timer",
        "waits_for",
        "width",
    )

    def __init__(self, queue: str, live: Live) -> None:
        self.queue = queue
        self.pool = (live.record.release_id, live.record.function)
        self.refs: tuple[str, ...] = ()
        """Of its first request."""
        self.looked = 0
        """Counts up with every look at any line."""
        self.width = 1
        self.deferred: tuple[int, float] | None = None
        """The first request, and since when it is made to wait."""
        self.never_since: float | None = None
        """Since when no worker of the pool can run its first request."""
        self.timer: asyncio.TimerHandle | None = None
        self.waits_for = ""
        """In words, for whoever asks."""


class Lines:
    """All of them. On the loop."""

    def __init__(self, core: Core, functions: Functions, place: Place, give: GiveTo) -> None:
        self._core = core
        self._functions = functions
        self._place = place
        self._give = give
        self._lines: dict[str, Line] = {}
        self._pools: dict[tuple[str, str], dict[str, Line]] = {}
        """By release and function, and then by queue."""
        self._needed: Counter[str] = Counter()
        """By ref, lines whose first request needs it."""
        self._news: dict[str, None] = {}
        """Queues to be looked at."""
        self._freed: dict[str, Member] = {}
        """Workers that may take more."""
        self._asked: dict[str, asyncio.Task[None]] = {}
        """By queue, looks at a release that nobody has read yet."""
        self._looks = 0
        self._is_due = False
        self._is_open = False
        self._opened_at = 0.0
        self._reunion_until = 0.0

    def open(self, reunion_until: float) -> None:
        """Begin to give requests to workers.

        Args:
            reunion_until: Until when those that were submitted before now are kept back: a worker
                that comes back may have them.
        """
        self._is_open, self._opened_at = True, self._core.clock()
        self._reunion_until = reunion_until
        self._soon()

    def close(self) -> None:
        """Give nothing more."""
        self._is_open = False
        for line in self._lines.values():
            _stop(line)
        for task in self._asked.values():
            task.cancel()

    def wake(self, queue: str) -> None:
        """Look at a queue, soon."""
        self._news[queue] = None
        self._soon()

    def freed(self, member: Member) -> None:
        """Look at what a worker could serve, soon."""
        self._freed[member.worker_id] = member
        self._soon()

    def reason(self, queue: str) -> str:
        """Return why the first request of a queue waits, in words; empty when it does not."""
        line = self._lines.get(queue)
        return "" if line is None else line.waits_for

    # Turns.

    def _soon(self) -> None:
        if self._is_open and not self._is_due:
            self._is_due = True
            self._core.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._is_due = False
        left = _TURN
        while left > 0 and self._freed and self._is_open:
            worker_id = next(iter(self._freed))
            left -= self._serve(self._freed.pop(worker_id), left)
        while left > 0 and self._news and self._is_open:
            queue = next(iter(self._news))
            del self._news[queue]
            left -= self._look(queue, min(left, _RUN))
        if self._news or self._freed:
            self._soon()

    def _serve(self, member: Member, most: int) -> int:
        """Look at what a worker could take; return how often was looked."""
        looks = 1
        for line in self._candidates(member):
            policy, now = self._core.options.policy, self._core.clock()
            if not member.has_room(line.width, now, policy):
                break
            looks += self._look(line.queue, min(_RUN, max(1, most - looks)), member)
        return looks

    def _candidates(self, member: Member) -> list[Line]:
        """Return the lines a worker could serve, those first that it has the models of.

        What has lost its patience comes before them: nobody starves behind a hot model.
        """
        if not self._pools or not member.is_connected:
            return []
        found: list[tuple[bool, bool, int, Line]] = []
        overdue = self._core.clock() - self._core.options.policy.patience_s
        held = {ref for one in (*member.gpus, member.processor) for ref in one.models}
        for function in member.functions:
            for line in self._pools.get((member.release_id, function), {}).values():
                is_patient = line.deferred is None or line.deferred[1] > overdue
                found.append((is_patient, not held.issuperset(line.refs), line.looked, line))
        found.sort(key=lambda one: one[:3])
        return [line for *_, line in found[:_GLANCES]]

    # One queue.

    def _look(self, queue: str, most: int, member: Member | None = None) -> int:
        """Give what can be given of a queue; return how often placement was asked, at least 1.

        Args:
            queue: Which.
            most: Times to ask; if that is not enough, the rest comes another turn.
            member: A worker because of which it is looked at: only while it takes more.
        """
        for looks in range(1, most + 1):
            live = self._core.requests.first(queue)
            if live is None:
                self._drop(queue)
                return looks
            options = live.options
            line = self._line(queue, live, options)
            try:
                has_left = self._step(line, live, options)
            except Exception:  # of a placement that is not ours, or of one that cannot be
                _log.exception("queue %r cannot be served now", queue)
                self._again(line, self._core.clock() + self._core.options.policy.look_again_s)
                has_left = False
            if not has_left:
                return looks
            if member is not None and not self._goes_on(line, member):
                return looks
        self._news[queue] = None
        return most

    def _goes_on(self, line: Line, member: Member) -> bool:
        """Tell whether to ask for the next of a line; if not, have it asked again in time."""
        policy, now = self._core.options.policy, self._core.clock()
        if member.has_room(line.width, now, policy):
            return True
        if line.timer is None:
            free_at = member.free_at(line.width)
            self._again(line, min(max(free_at - policy.prefetch_s, now), now + policy.look_again_s))
        return False

    def _step(self, line: Line, live: Live, options: JobOptions) -> bool:
        """Have the first request of a line given, or not; tell whether it has left the line."""
        core, record, now = self._core, live.record, self._core.clock()
        self._looks += 1
        line.looked = self._looks
        if now < self._reunion_until and record.created_at < self._opened_at:
            line.waits_for = "workers are given time to come back and say what they run"
            self._again(line, self._reunion_until)
            return False
        if not core.may_run(live.record, options):
            line.waits_for = f"as many of {record.function!r} run as may at the same time"
            self._again(line, now + core.options.policy.look_again_s)
            return False
        owner = options.endpoint_owner
        facts = self._functions.known(owner, record.endpoint, record.release_id, record.function)
        if facts is None:
            self._ask(line.queue, live, owner)
            return False
        line.width = facts.max_batch or 1
        decision = self._decide(line, live, options, facts, now)
        if isinstance(decision, Give):
            return self._hand_over(line, live, options, facts, decision)
        return self._defer(line, live, decision, now)

    def _decide(
        self, line: Line, live: Live, options: JobOptions, facts: Facts, now: float
    ) -> Decision:
        core, release_id = self._core, live.record.release_id
        classes, sizes = core.fleet.classes(release_id), core.fleet.sizes
        needs = core.learning.needs(live.record, options, facts, classes, sizes)
        needs = msgspec.structs.replace(
            needs,
            backlog_s=self._backlog_s(line, needs),
            deferred_since=self._deferred_since(line, live),
        )
        return self._place(
            needs,
            core.fleet.states(release_id, line.width),
            now=now,
            policy=core.options.policy,
            needed=self._needed.keys(),
        )

    def _backlog_s(self, line: Line, needs: Needs) -> float:
        behind = self._core.requests.length(line.queue) - 1
        if behind <= 0:
            return 0.0
        known = [one.run_s for one in needs.predictions.values() if one.run_s is not None]
        run_s = sum(known) / len(known) if known else self._core.options.policy.usual_run_s
        return behind * run_s

    def _deferred_since(self, line: Line, live: Live) -> float | None:
        deferred = line.deferred
        return deferred[1] if deferred is not None and deferred[0] == live.record.seq else None

    def _hand_over(
        self, line: Line, live: Live, options: JobOptions, facts: Facts, decision: Give
    ) -> bool:
        taken = self._core.requests.take(line.queue)
        assert taken is live, "whose turn it is changes only when somebody is pushed"
        _stop(line)
        line.deferred, line.never_since, line.waits_for = None, None, ""
        self._give(live, options, facts, decision)
        return True

    def _defer(self, line: Line, live: Live, decision: Wait | Never, now: float) -> bool:
        line.waits_for = decision.message
        if isinstance(decision, Wait):
            line.never_since = None
            if self._deferred_since(line, live) is None:
                line.deferred = (live.record.seq, now)
            self._again(line, decision.again_at)
            return False
        line.never_since = now if line.never_since is None else line.never_since
        over_at = line.never_since + self._core.options.never_after_s
        if now < over_at:
            self._again(line, over_at)
            return False
        self._fail(line.queue, live, classify(_error_of(decision), origin="input"))
        return True

    def _fail(self, queue: str, live: Live, failure: Failure) -> None:
        """End the first request of a line, which no worker will ever run."""
        taken = self._core.requests.take(queue)
        assert taken is live, "whose turn it is changes only when somebody is pushed"
        self._core.requests.failed(live, live.attempt, failure)

    # What is known of lines.

    def _line(self, queue: str, live: Live, options: JobOptions) -> Line:
        line = self._lines.get(queue)
        if line is None:
            line = self._lines[queue] = Line(queue, live)
            self._pools.setdefault(line.pool, {})[queue] = line
        if line.refs != options.refs:
            self._unneed(line)
            line.refs = options.refs
            self._needed.update(line.refs)
        return line

    def _drop(self, queue: str) -> None:
        line = self._lines.pop(queue, None)
        if line is None:
            return
        _stop(line)
        self._unneed(line)
        pool = self._pools[line.pool]
        del pool[queue]
        if not pool:
            del self._pools[line.pool]

    def _unneed(self, line: Line) -> None:
        for ref in line.refs:
            self._needed[ref] -= 1
            if self._needed[ref] <= 0:
                del self._needed[ref]

    def _again(self, line: Line, at: float) -> None:
        """Look at a line again then, unless there is a reason before."""
        _stop(line)
        wait_s = max(0.0, at - self._core.clock())
        line.timer = self._core.loop.call_later(wait_s, self._due, line)

    def _due(self, line: Line) -> None:
        line.timer = None
        self.wake(line.queue)

    # Releases that nobody has read yet.

    def _ask(self, queue: str, live: Live, owner: str) -> None:
        if queue not in self._asked:
            task = self._core.loop.create_task(self._read(queue, live, owner))
            self._asked[queue] = task
            task.add_done_callback(lambda _: self._asked.pop(queue, None))

    async def _read(self, queue: str, live: Live, owner: str) -> None:
        record = live.record
        try:
            await self._functions.facts(owner, record.endpoint, record.release_id, record.function)
        except WorkerError as error:
            if self._core.requests.first(queue) is live:
                self._fail(queue, live, classify(error))
        except Exception as error:  # nobody else would end what waits
            where = (record.release_id, record.function)
            _log.exception("what release %r says of %r is not known", *where)
            if self._core.requests.first(queue) is live:
                self._fail(queue, live, classify(error))
        self.wake(queue)


def _stop(line: Line) -> None:
    if line.timer is not None:
        line.timer.cancel()
        line.timer = None


def _error_of(decision: Never) -> WorkerError:
    if decision.cause == "hardware":
        return HardwareUnmetError(decision.message)
    if decision.cause == "model_disabled":
        return RefCompatibilitySurprise(decision.message)
    return FunctionUnavailableError(decision.message)
