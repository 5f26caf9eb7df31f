"""What holds for every pool and every request."""

from __future__ import annotations

import random
from typing import NamedTuple
from unittest.mock import patch

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker.resources import Resources
from gen_worker.runtime.scheduler import candidates
from gen_worker.runtime.scheduler.decisions import (
    Decision,
    Give,
    ModelNeed,
    Needs,
    Never,
    Policy,
    Prediction,
)
from gen_worker.runtime.scheduler.placement import place
from gen_worker.runtime.scheduler.snapshots import (
    DeviceState,
    Hardware,
    InOrder,
    Resident,
    WorkerState,
    nearby,
)

NOW = 10_000.0
GIB = 1024**3
REFS = ("a", "b", "c")
POLICY = Policy()
MACHINES = (
    Hardware("Big", 80 * GIB, 9.0),
    Hardware("Small", 24 * GIB, 8.6, frozenset({"torchao"})),
    Hardware("", 0, None, frozenset({"torchao"})),
)
RESOURCES = (
    Resources(),
    Resources(accelerator="cuda"),
    Resources(min_vram_gb=40),
    Resources(min_compute_capability=8.9),
    Resources(accelerator="cuda", required_libraries=("torchao",)),
)

SECONDS = (-30.0, 0.05, 0.5, 3.0, 20.0, 500.0)
SIZES = (0, GIB, 30 * GIB)


class Case(NamedTuple):
    """A request, a pool, and the models that other requests need."""

    needs: Needs
    pool: list[WorkerState]
    needed: frozenset[str]


def make_case(seed: int) -> Case:
    """Return one of many; a case of Hypothesis' own parts takes twenty times as long to make."""
    dice = random.Random(seed)
    pool = [make_worker(dice, number) for number in range(dice.randint(0, 6))]
    return Case(make_needs(dice), pool, some_refs(dice))


def some_refs(dice: random.Random) -> frozenset[str]:
    return frozenset(dice.sample(REFS, dice.randint(0, len(REFS))))


def make_device(dice: random.Random, index: int) -> DeviceState:
    return DeviceState.of(
        index,
        slots=dice.randint(1, 2),
        ends_at=tuple(NOW + dice.choice(SECONDS) for _ in range(dice.randint(0, 3))),
        models={
            ref: Resident(
                dice.choice((0.0, NOW + 5)), dice.choice((1.0, NOW - 1)), dice.choice(SIZES)
            )
            for ref in sorted(some_refs(dice))
        },
        free_bytes=dice.choice((None, 0, 20 * GIB)),
    )


def make_worker(dice: random.Random, number: int) -> WorkerState:
    def usually() -> bool:
        return dice.random() < 0.93

    hardware = dice.choice((MACHINES[0], *MACHINES))
    count = dice.randint(1, 2) if hardware.vram_bytes else 0
    return WorkerState(
        worker_id=f"w{number}",
        release_id="r" if usually() else "other",
        functions=frozenset({"f"} if usually() else ()),
        loading=frozenset(() if usually() else {"f"}),
        unavailable={} if usually() else {"f": "it is broken"},
        hardware=hardware,
        gpus=tuple(make_device(dice, index) for index in range(count)),
        nearby=nearby(ram=some_refs(dice), disk=some_refs(dice)),
        is_connected=usually(),
        is_draining=not usually(),
        heard_at=NOW if usually() else NOW - 100,
        joined_at=0.0 if usually() else NOW - 1,
        refused_until=0.0 if usually() else NOW + 3,
    )


def make_needs(dice: random.Random) -> Needs:
    models = []
    for ref in sorted(some_refs(dice)):
        ram_s, disk_s, cold_s = sorted(dice.choices((0.0, 1.0, 10.0, 60.0), k=3))
        models.append(ModelNeed(ref, dice.choice(SIZES), ram_s, disk_s, cold_s))
    return Needs(
        function="f",
        release_id="r",
        resources=dice.choice(RESOURCES),
        models=tuple(models),
        predictions={
            name: Prediction(dice.choice(SIZES), dice.choice((None, 0.01, 2.0, 30.0)))
            for name in dice.sample(("Big", "Small", ""), dice.randint(0, 3))
        },
        backlog_s=dice.choice((0.0, 5.0, 1000.0)),
        deferred_since=dice.choice((None, NOW - 1, NOW - 50, 1.0)),
    )


cases = st.integers(0, 2**64).map(make_case)


def decide(needs: Needs, pool: list[WorkerState], needed: frozenset[str]) -> Decision:
    return place(needs, pool, now=NOW, policy=POLICY, needed=needed)


def may_run(needs: Needs, worker: WorkerState) -> bool:
    """Say in another way than placement does whether every gate is open."""
    hardware, resources = worker.hardware, needs.resources
    predicted = needs.predictions.get(hardware.gpu_class, Prediction()).vram_bytes
    return (
        worker.release_id == needs.release_id
        and "f" in worker.functions
        and "f" not in worker.loading
        and worker.is_connected
        and not worker.is_draining
        and NOW - worker.heard_at <= POLICY.silent_s
        and (not resources.needs_gpu or 0 < hardware.vram_bytes >= predicted)
        and hardware.vram_bytes >= (resources.min_vram_gb or 0) * GIB
        and (hardware.compute_capability or 0) >= (resources.min_compute_capability or 0)
        and hardware.libraries.issuperset(resources.required_libraries)
    )


@given(case=cases)
@settings(max_examples=200, deadline=None)
def test_no_gate_is_ever_passed(case: Case) -> None:
    needs, pool, needed = case
    decision = decide(needs, pool, needed)
    if isinstance(decision, Give):
        chosen = next(worker for worker in pool if worker.worker_id == decision.worker_id)
        assert may_run(needs, chosen)
        assert chosen.refused_until <= NOW
        assert NOW <= decision.starts_at <= NOW + POLICY.prefetch_s
        assert decision.ends_at >= decision.starts_at
        assert (decision.gpu_index is None) is not needs.resources.needs_gpu
        assert not {model.ref for model in needs.models} & set(decision.unload)
    elif isinstance(decision, Never):
        assert not any(may_run(needs, worker) for worker in pool)
    else:
        assert NOW < decision.again_at <= NOW + POLICY.look_again_s
    assert isinstance(decision, Give) or decision.message


@given(case=cases, data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_order_of_workers_does_not_matter(case: Case, data: st.DataObject) -> None:
    needs, pool, needed = case
    shuffled = data.draw(st.permutations(pool))
    assert decide(needs, pool, needed) == decide(needs, shuffled, needed)


@given(case=cases, is_warmer=st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_warmer_or_emptier_worker_is_chosen_all_the_more(case: Case, is_warmer: bool) -> None:
    needs, pool, needed = case
    decision = decide(needs, pool, needed)
    if not isinstance(decision, Give) or decision.gpu_index is None:
        return
    index = next(at for at, one in enumerate(pool) if one.worker_id == decision.worker_id)
    device = pool[index].gpus[decision.gpu_index]
    if is_warmer:
        models = {model.ref: Resident(0.0, NOW, model.size_bytes) for model in needs.models}
        better = msgspec.structs.replace(device, models={**device.models, **models})
    else:
        better = msgspec.structs.replace(device, outstanding=0, free_at=0.0)
    gpus = tuple(better if one is device else one for one in pool[index].gpus)
    changed = list(pool)
    changed[index] = msgspec.structs.replace(pool[index], gpus=gpus)
    again = decide(needs, changed, needed)
    assert isinstance(again, Give)
    assert (again.worker_id, again.gpu_index) == (decision.worker_id, decision.gpu_index)
    assert again.ends_at <= decision.ends_at


@given(case=cases)
@settings(max_examples=200, deadline=None)
def test_nobody_waits_for_ever_while_some_device_is_free(case: Case) -> None:
    needs, pool, needed = case
    needs = msgspec.structs.replace(needs, deferred_since=NOW - 1000)
    needs_gpu = needs.resources.needs_gpu
    free = [
        worker.worker_id
        for worker in pool
        if may_run(needs, worker) and worker.refused_until <= NOW
        for device in (worker.gpus if needs_gpu else worker.processors)
        if device.outstanding < device.slots
    ]
    if free:
        assert isinstance(decide(needs, pool, needed), Give)


@settings(max_examples=500)
@given(cases, st.booleans())
def test_a_request_is_placed_alike_without_comparing_all(case: Case, has_models: bool) -> None:
    needs = case.needs if has_models else msgspec.structs.replace(case.needs, models=())
    quickly = decide(needs, case.pool, case.needed)
    assert decide(needs, InOrder(case.pool), case.needed) == quickly
    with patch.object(candidates._Search, "free", return_value=None):
        assert decide(needs, case.pool, case.needed) == quickly
