"""200 workers, 300 models of very different popularity: placement against simpler rules.

The time is simulated: what a rule decides is done, and nothing else is.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import pytest

from gen_worker.resources import Resources
from gen_worker.runtime.scheduler.decisions import (
    Give,
    ModelNeed,
    Needs,
    Policy,
    Prediction,
    Wait,
)
from gen_worker.runtime.scheduler.placement import place
from gen_worker.runtime.scheduler.snapshots import (
    DeviceState,
    Hardware,
    Resident,
    WorkerState,
    nearby,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GIB = 1024**3
GPU = Resources(accelerator="cuda")
HARDWARE = Hardware("GPU", 24 * GIB, 8.9)
MODEL_BYTES = 10 * GIB
HELD = 2
"""Models that a GPU has room for."""
DISK_S, COLD_S = 10.0, 40.0
START = 1000.0


class Arrival(NamedTuple):
    """One request."""

    at: float
    ref: str
    run_s: float


class Machine:
    """One worker with one GPU, which does one job after the other."""

    def __init__(self, number: int, refs: Sequence[str], disk: Sequence[str]) -> None:
        self.number = number
        self.models = {ref: START for ref in refs}
        """By ref, when it was used last."""
        self.disk = set(disk)
        self.loads = 0
        self.jobs: list[float] = []
        """When each ends."""
        self.state = self._state()

    def take(self, arrival: Arrival, now: float, unload: Sequence[str] = ()) -> float:
        """Do a request after all others; return when it ends."""
        begins = max([now, *self.jobs])
        load_s = 0.0
        if arrival.ref not in self.models:
            load_s = DISK_S if arrival.ref in self.disk else COLD_S
            self.disk.add(arrival.ref)
            self.loads += 1
            for ref in unload:
                del self.models[ref]
            while len(self.models) >= HELD:
                del self.models[min(self.models, key=lambda ref: (self.models[ref], ref))]
        self.models[arrival.ref] = begins + load_s
        ends = begins + load_s + arrival.run_s
        self.jobs.append(ends)
        self.state = self._state()
        return ends

    def end(self, at: float) -> None:
        self.jobs.remove(at)
        self.state = self._state()

    def _state(self) -> WorkerState:
        residents = {ref: Resident(at, at, MODEL_BYTES) for ref, at in self.models.items()}
        device = DeviceState.of(
            ends_at=tuple(self.jobs),
            models=residents,
            free_bytes=(HELD - len(residents)) * MODEL_BYTES,
        )
        return WorkerState(
            worker_id=f"w{self.number:03}",
            functions=frozenset({"paint"}),
            hardware=HARDWARE,
            gpus=(device,),
            nearby=nearby(disk=self.disk),
            heard_at=float("inf"),
        )


class Outcome(NamedTuple):
    """What became of all requests."""

    mean_s: float
    p99_s: float
    worst_s: float
    loads: int


class Line:
    """The requests that wait for one model, and when to ask for them again."""

    def __init__(self) -> None:
        self.waiting: deque[Arrival] = deque()
        self.deferred_since: float | None = None
        self.again_at = 0.0


class Choice(NamedTuple):
    """What a rule says: a machine and what it unloads, or when to ask again."""

    machine: Machine | None
    unload: tuple[str, ...] = ()
    again_at: float = 0.0


class Pool:
    """Requests wait by model, the first that came first; a policy says where they go."""

    def __init__(self, machines: int, models: int, seed: int) -> None:
        self.dice = random.Random(seed)
        refs = [f"m{number:03}" for number in range(models)]
        self.refs = refs
        self.machines = [
            Machine(number, self.dice.sample(refs, HELD), self.dice.sample(refs, models // 3))
            for number in range(machines)
        ]

    def arrivals(self, count: int, per_s: float, skew: float) -> list[Arrival]:
        """Return requests whose models are as popular as words are in a text."""
        weights = list(accumulate(1 / rank**skew for rank in range(1, len(self.refs) + 1)))
        found, at = [], START
        for _ in range(count):
            at += self.dice.expovariate(per_s)
            ref = self.dice.choices(self.refs, cum_weights=weights)[0]
            found.append(Arrival(at, ref, self.dice.uniform(1.0, 3.0)))
        return found

    def run(self, arrivals: Sequence[Arrival], rule: Rule) -> Outcome:
        """Have the rule place every request, and return how long they took."""
        events: list[tuple[float, int, Arrival | Machine | str]] = []
        for arrival in arrivals:
            heapq.heappush(events, (arrival.at, len(events), arrival))
        lines = {ref: Line() for ref in self.refs}
        took: list[float] = []
        count = len(events)
        while events:
            now, _, what = heapq.heappop(events)
            if isinstance(what, Arrival):
                lines[what.ref].waiting.append(what)
                asked = [what.ref]
            elif isinstance(what, Machine):
                what.end(now)
                asked = [*what.models, *self._oldest(lines, 2)]
            else:
                asked = [what] if lines[what].again_at <= now else []
            for ref in asked:
                line = lines[ref]
                while line.waiting:
                    choice = rule(self, lines, ref, now)
                    if choice.machine is None:
                        since = line.deferred_since
                        line.deferred_since = now if since is None else since
                        if choice.again_at:
                            count += 1
                            line.again_at = choice.again_at
                            heapq.heappush(events, (choice.again_at, count, ref))
                        break
                    arrival = line.waiting.popleft()
                    line.deferred_since = None
                    ends = choice.machine.take(arrival, now, choice.unload)
                    took.append(ends - arrival.at)
                    count += 1
                    heapq.heappush(events, (ends, count, choice.machine))
        assert len(took) == len(arrivals), "some request was never placed"
        took.sort()
        loads = sum(machine.loads for machine in self.machines)
        return Outcome(sum(took) / len(took), took[len(took) * 99 // 100], took[-1], loads)

    def _oldest(self, lines: Mapping[str, Line], count: int) -> list[str]:
        waiting = [(line.waiting[0].at, ref) for ref, line in lines.items() if line.waiting]
        return [ref for _, ref in heapq.nsmallest(count, waiting)]


Rule = Callable[[Pool, dict[str, Line], str, float], Choice]


def by_placement(policy: Policy) -> Rule:
    """Return the rule that asks `place`."""

    def rule(pool: Pool, lines: dict[str, Line], ref: str, now: float) -> Choice:
        line = lines[ref]
        needs = Needs(
            function="paint",
            resources=GPU,
            models=(ModelNeed(ref, MODEL_BYTES, 1.0, DISK_S, COLD_S),),
            predictions={"GPU": Prediction(MODEL_BYTES, 2.0)},
            backlog_s=2.0 * (len(line.waiting) - 1),
            deferred_since=line.deferred_since,
        )
        needed = {other for other, one in lines.items() if one.waiting}
        states = [machine.state for machine in pool.machines]
        decision = place(needs, states, now=now, policy=policy, needed=needed)
        if isinstance(decision, Give):
            machine = pool.machines[int(decision.worker_id[1:])]
            return Choice(machine, decision.unload)
        assert isinstance(decision, Wait), decision
        return Choice(None, again_at=decision.again_at)

    return rule


def at_random(pool: Pool, lines: dict[str, Line], ref: str, now: float) -> Choice:
    """Take any machine that is idle, wherever the model is."""
    idle = [machine for machine in pool.machines if not machine.jobs]
    return Choice(pool.dice.choice(idle) if idle else None)


def sticky(pool: Pool, lines: dict[str, Line], ref: str, now: float) -> Choice:
    """Take the one machine that a model belongs to, however long others wait for it."""
    return Choice(pool.machines[int(ref[1:]) % len(pool.machines)])


@pytest.mark.parametrize(("per_s", "skew", "seed"), [(40.0, 1.0, 1), (60.0, 0.8, 3)])
def test_requests_are_done_sooner_than_at_random_or_with_sticky_models(
    per_s: float, skew: float, seed: int
) -> None:
    found = {}
    rules = {"place": by_placement(Policy()), "random": at_random, "sticky": sticky}
    for name, rule in rules.items():
        pool = Pool(200, 300, seed)
        found[name] = pool.run(pool.arrivals(400, per_s, skew), rule)
    ours = found["place"]
    for other in ("random", "sticky"):
        assert ours.mean_s * 3.0 <= found[other].mean_s, found
        assert ours.p99_s * 3.0 <= found[other].p99_s, found
        assert ours.loads * 1.5 <= found[other].loads, found


def test_a_pool_with_too_few_places_for_its_models_does_not_thrash() -> None:
    pool = Pool(10, 40, 5)
    arrivals = pool.arrivals(300, 3.0, 1.0)
    outcome = pool.run(arrivals, by_placement(Policy()))
    assert outcome.loads <= len(arrivals) / 3
