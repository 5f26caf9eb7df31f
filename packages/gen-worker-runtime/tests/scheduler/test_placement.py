"""The rules of placement, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.resources import Resources
from gen_worker.runtime.scheduler.decisions import (
    Decision,
    Give,
    ModelNeed,
    Needs,
    Never,
    Policy,
    Prediction,
    Wait,
)
from gen_worker.runtime.scheduler.draining import drain_order
from gen_worker.runtime.scheduler.placement import place
from gen_worker.runtime.scheduler.snapshots import (
    DeviceState,
    Hardware,
    Resident,
    WorkerState,
    nearby,
    overload_backoff_s,
)

NOW = 10_000.0
GIB = 1024**3
BIG = Hardware("Big", 80 * GIB, 9.0, frozenset({"torchao"}))
SMALL = Hardware("Small", 24 * GIB, 8.6)
NO_GPU = Hardware()
GPU = Resources(accelerator="cuda")
MODEL = ModelNeed("acme/model", 10 * GIB, ram_s=2.0, disk_s=10.0, cold_s=60.0)


def gpu(
    *busy_s: float,
    hot: tuple[str, ...] = (),
    free_gib: float | None = None,
    index: int = 0,
    slots: int = 1,
) -> DeviceState:
    """Return a GPU whose jobs end in so many seconds; models were used in the order given."""
    models = {ref: Resident(0.0, NOW - 100 + at, 10 * GIB) for at, ref in enumerate(hot)}
    return DeviceState.of(
        index,
        slots=slots,
        ends_at=tuple(NOW + seconds for seconds in busy_s),
        models=models,
        free_bytes=None if free_gib is None else round(free_gib * GIB),
    )


def worker(worker_id: str, *gpus: DeviceState, **fields: Any) -> WorkerState:
    defaults: dict[str, Any] = {"functions": frozenset({"f"}), "hardware": BIG, "heard_at": NOW}
    return WorkerState(worker_id=worker_id, gpus=gpus or (gpu(),), **(defaults | fields))


def needs(*models: ModelNeed, **fields: Any) -> Needs:
    defaults: dict[str, Any] = {"resources": GPU, "predictions": {"Big": Prediction(0, 2.0)}}
    return Needs(function="f", models=models, **(defaults | fields))


def decide(
    wanted: Needs, *workers: WorkerState, needed: tuple[str, ...] = (), **policy: Any
) -> Decision:
    return place(
        wanted, workers, now=NOW, policy=Policy(**policy), needed=frozenset((MODEL.ref, *needed))
    )


def given_to(decision: Decision) -> str:
    assert isinstance(decision, Give), decision
    return decision.worker_id


def waits(decision: Decision) -> Wait:
    assert isinstance(decision, Wait), decision
    assert NOW < decision.again_at <= NOW + Policy().look_again_s
    return decision


# -- where a model is ------------------------------------------------------------------------------

HOT = worker("hot", gpu(hot=(MODEL.ref,)))
RAM = worker("ram", nearby=nearby(ram=(MODEL.ref,), disk=(MODEL.ref,)))
DISK = worker("disk", nearby=nearby(disk=(MODEL.ref,)))
COLD = worker("cold")


@pytest.mark.parametrize(
    ("workers", "expected", "tier", "takes_s"),
    [
        ((COLD, DISK, RAM, HOT), "hot", "vram", 2.0),
        ((COLD, DISK, RAM), "ram", "ram", 4.0),
        ((COLD, DISK), "disk", "disk", 12.0),
        ((COLD,), "cold", "cold", 62.0),
    ],
)
def test_the_warmest_of_idle_workers_gets_it(
    workers: tuple[WorkerState, ...], expected: str, tier: str, takes_s: float
) -> None:
    decision = decide(needs(MODEL), *workers)
    assert decision == Give(expected, 0, tier, NOW, NOW + takes_s)  # type: ignore[arg-type]


def test_the_coldest_of_several_models_names_the_tier() -> None:
    both = worker("w", nearby=nearby(ram=("a",), disk=("b",)))
    models = ModelNeed("a", 0, 1.0, 2.0, 3.0), ModelNeed("b", 0, 1.0, 2.0, 3.0)
    assert decide(needs(*models), both) == Give("w", 0, "disk", NOW, NOW + 5.0)


def test_a_model_that_is_on_its_way_is_waited_for_by_the_job() -> None:
    device = DeviceState.of(slots=2, models={MODEL.ref: Resident(ready_at=NOW + 3)})
    assert decide(needs(MODEL), worker("w", device), DISK) == Give("w", 0, "vram", NOW, NOW + 5)


# -- warm and busy, or cold and idle ---------------------------------------------------------------


def test_a_warm_worker_is_waited_for_while_that_is_shorter_than_a_load() -> None:
    decision = waits(decide(needs(MODEL), worker("hot", gpu(3.0, hot=(MODEL.ref,))), DISK))
    assert decision == Wait(
        "warm",
        "its models are loaded on worker 'hot', which is expected to be free in about 3 s;"
        " to load them elsewhere takes about 10 s",
        NOW + 2.9,
    )


def test_a_second_copy_is_made_when_the_wait_is_longer_than_a_load() -> None:
    decision = decide(needs(MODEL), worker("hot", gpu(20.0, hot=(MODEL.ref,))), DISK)
    assert decision == Give("disk", 0, "disk", NOW, NOW + 12.0, is_replica=True)


def test_a_second_copy_is_made_when_the_backlog_outlives_the_load() -> None:
    busy = worker("hot", gpu(3.0, hot=(MODEL.ref,)))
    waits(decide(needs(MODEL, backlog_s=9.0), busy, DISK))
    assert given_to(decide(needs(MODEL, backlog_s=10.0), busy, DISK)) == "disk"


def test_a_second_copy_is_not_made_for_a_backlog_that_two_copies_end_sooner() -> None:
    busy = [worker(f"hot{n}", gpu(3.0, hot=(MODEL.ref,))) for n in range(2)]
    waits(decide(needs(MODEL, backlog_s=18.0), *busy, DISK))
    assert given_to(decide(needs(MODEL, backlog_s=20.0), *busy, DISK)) == "disk"


def test_a_little_gain_is_no_reason_for_a_second_copy() -> None:
    waits(decide(needs(MODEL), worker("hot", gpu(11.0, hot=(MODEL.ref,))), DISK))


def test_a_request_that_waited_too_long_for_a_warm_worker_takes_any() -> None:
    busy = worker("hot", gpu(3.0, hot=(MODEL.ref,)))
    waits(decide(needs(MODEL, deferred_since=NOW - 40.0), busy, DISK))
    assert given_to(decide(needs(MODEL, deferred_since=NOW - 40.1), busy, DISK)) == "disk"


def test_an_overdue_job_is_expected_to_take_the_longer_the_later_it_is() -> None:
    assert waits(decide(needs(), worker("w", gpu(-6.0)))).again_at == NOW + 2.9


# -- room ------------------------------------------------------------------------------------------


def test_the_coldest_model_makes_room() -> None:
    full = worker("w", gpu(hot=("old", "new"), free_gib=2))
    decision = decide(needs(MODEL), full)
    assert decision == Give("w", 0, "cold", NOW, NOW + 62.0, unload=("old",))


def test_a_model_that_waiting_requests_need_does_not_make_room() -> None:
    full = worker("w", gpu(hot=("old", "new"), free_gib=2))
    decision = decide(needs(MODEL), full, needed=("old",))
    assert isinstance(decision, Give)
    assert decision.unload == ("new",)
    crowded = waits(decide(needs(MODEL), full, needed=("old", "new")))
    assert crowded.cause == "room"
    assert crowded.message == (
        "1 device is full of models that other waiting requests need:"
        " there is no room for those of 'f' yet"
    )


def test_who_waited_too_long_for_room_gets_it() -> None:
    full = worker("w", gpu(hot=("old", "new"), free_gib=2))
    decision = decide(needs(MODEL, deferred_since=NOW - 91.0), full, needed=("old", "new"))
    assert isinstance(decision, Give)
    assert decision.unload == ("old",)


def test_a_device_with_room_is_preferred_and_then_the_one_whose_model_is_colder() -> None:
    full = [worker("a", gpu(hot=("x", "y"), free_gib=2)), worker("b", gpu(free_gib=20))]
    assert given_to(decide(needs(MODEL), *full)) == "b"
    older = DeviceState.of(models={"z": Resident(0, 1.0, 10 * GIB)}, free_bytes=0)
    assert given_to(decide(needs(MODEL), full[0], worker("b", older))) == "b"


def test_memory_besides_the_models_needs_room_too() -> None:
    wanted = needs(MODEL, predictions={"Big": Prediction(14 * GIB, 2.0)})
    decision = decide(wanted, worker("w", gpu(hot=("old",), free_gib=12)))
    assert isinstance(decision, Give)
    assert decision.unload == ("old",)


# -- slots, prefetch and ties ----------------------------------------------------------------------


def test_a_worker_gets_its_next_job_just_before_it_needs_it() -> None:
    assert given_to(decide(needs(), worker("w", gpu(0.09)))) == "w"
    assert waits(decide(needs(), worker("w", gpu(5.0)))).message == (
        "every worker that can run it is busy; worker 'w' is expected to be free in about 5 s"
    )


def test_short_jobs_are_sent_ahead_up_to_a_bound() -> None:
    short = [0.001 * count for count in range(1, 17)]
    assert given_to(decide(needs(), worker("w", gpu(*short)))) == "w"
    waits(decide(needs(), worker("w", gpu(*short, 0.017))))


def test_a_free_slot_is_used_at_once() -> None:
    assert given_to(decide(needs(), worker("w", gpu(50.0, slots=2)))) == "w"


def test_ties_go_to_fewest_outstanding_then_by_name() -> None:
    three = worker("a", gpu(9.0, slots=2)), worker("c"), worker("b")
    assert given_to(decide(needs(), *three)) == "b"


def test_each_gpu_is_judged_by_itself() -> None:
    two = worker("w", gpu(9.0), gpu(hot=(MODEL.ref,), index=1))
    assert decide(needs(MODEL), two) == Give("w", 1, "vram", NOW, NOW + 2.0)


def test_a_function_without_a_gpu_takes_a_processor() -> None:
    wanted = needs(resources=Resources())
    assert decide(wanted, worker("w", gpu(99.0))) == Give("w", None, "vram", NOW, NOW + 2.0)


def test_a_faster_class_is_worth_a_short_wait() -> None:
    slow = worker("slow", hardware=SMALL)
    both = {"Big": Prediction(0, 2.0), "Small": Prediction(0, 10.0)}
    waits(decide(needs(predictions=both), worker("fast", gpu(3.0)), slow))
    assert given_to(decide(needs(predictions=both), worker("fast", gpu(9.0)), slow)) == "slow"
    deep = needs(predictions=both, backlog_s=10.0)
    assert given_to(decide(deep, worker("fast", gpu(3.0)), slow)) == "slow"


# -- who is given nothing, or less -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "cause", "message"),
    [
        (
            {"functions": frozenset(), "loading": frozenset({"f"})},
            "loading",
            "1 worker still loads a model for 'f'",
        ),
        ({"loading": frozenset({"f"})}, "loading", "1 worker still loads a model for 'f'"),
        (
            {"functions": frozenset()},
            "starting",
            "1 worker has not said yet whether 'f' runs there",
        ),
        ({"is_draining": True}, "draining", "1 worker takes nothing new before leaving"),
        ({"is_connected": False}, "disconnected", "1 worker is not connected"),
        ({"heard_at": NOW - 26}, "silent", "1 worker has not been heard of lately"),
        ({"release_id": "r2"}, "no_workers", "no worker of 'f' is there: start one"),
    ],
)
def test_who_cannot_take_it_now_is_waited_for(
    fields: dict[str, Any], cause: str, message: str
) -> None:
    decision = waits(decide(needs(), worker("w", **fields)))
    assert (decision.cause, decision.message) == (cause, message)


def test_the_release_is_named_when_it_has_no_workers() -> None:
    assert waits(decide(needs(release_id="r7"), worker("w"))).message == (
        "no worker of release 'r7' is there: start one"
    )


def test_who_refused_work_is_left_alone_for_a_while() -> None:
    tired = worker("w", refused_until=NOW + 4)
    decision = waits(decide(needs(), tired))
    assert decision.cause == "overloaded"
    assert decision.message == "worker 'w' has refused work, and is asked again in about 4 s"
    assert given_to(decide(needs(), tired, worker("x"))) == "x"
    assert [overload_backoff_s(count) for count in (1, 2, 3, 99)] == [0.5, 1.0, 2.0, 30.0]


def test_who_has_just_joined_is_spared_while_there_are_others() -> None:
    new = worker("a", joined_at=NOW - 1)
    assert given_to(decide(needs(), new, worker("b"))) == "b"
    assert given_to(decide(needs(), new)) == "a"


# -- what nobody can run ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "predicted_gib", "lacking"),
    [
        (
            Resources(min_vram_gb=40),
            0,
            "40 GiB of VRAM are needed, the largest fitting GPU has 24",
        ),
        (
            Resources(min_compute_capability=8.9),
            0,
            "compute capability 8.9 is needed, the best found is 8.6",
        ),
        (
            Resources(accelerator="cuda", required_libraries=("torchao", "flash_attn")),
            0,
            "not importable: torchao",
        ),
        (GPU, 30, "it is expected to take 30.0 GiB of VRAM, there are 24.0"),
    ],
)
def test_hard_requirements_are_never_given_up(
    resources: Resources, predicted_gib: int, lacking: str
) -> None:
    wanted = needs(
        resources=resources,
        predictions={"Small": Prediction(predicted_gib * GIB, 2.0)},
        deferred_since=0.0,
    )
    small = worker("small", hardware=SMALL)
    assert given_to(decide(wanted, small, worker("big", gpu(0.0)))) == "big"
    assert decide(wanted, small) == Never(
        "hardware", f"no worker of this pool can run 'f': Small: {lacking}"
    )


def test_every_class_says_what_it_lacks() -> None:
    decision = decide(
        needs(resources=Resources(min_vram_gb=100)),
        worker("a"),
        worker("b", hardware=SMALL),
        worker("c", hardware=NO_GPU),
    )
    assert decision == Never(
        "hardware",
        "no worker of this pool can run 'f':"
        " Big: 100 GiB of VRAM are needed, the largest fitting GPU has 80;"
        " Small: 100 GiB of VRAM are needed, the largest fitting GPU has 24;"
        " workers without a GPU: a CUDA GPU is needed, none was found",
    )


def test_a_worker_that_could_run_it_later_is_hoped_for() -> None:
    later = worker("later", is_connected=False)
    decision = decide(
        needs(resources=Resources(min_vram_gb=40)), worker("s", hardware=SMALL), later
    )
    assert waits(decision).cause == "disconnected"


def test_what_a_worker_says_it_never_runs_is_passed_on() -> None:
    without = worker("w", functions=frozenset(), unavailable={"f": "libfoo is missing"})
    assert decide(needs(), without) == Never(
        "function_unavailable", "no worker of this pool can run 'f': Big: libfoo is missing"
    )


def test_a_disabled_model_is_never_used() -> None:
    gone = MODEL._replace(disabled="its repository was deleted")
    assert decide(needs(gone), HOT) == Never(
        "model_disabled",
        "'f' cannot use 'acme/model' (its repository was deleted): choose another model",
    )


# -- leaving ---------------------------------------------------------------------------------------


def test_workers_leave_coldest_first() -> None:
    pool = [
        worker("running", gpu(5.0)),
        worker("only copy", gpu(hot=("needed",))),
        worker("idle, hot", gpu(hot=("x",))),
        worker("idle, hot lately", gpu(hot=("y", "x"))),
        worker("idle", joined_at=1.0),
        worker("idle, younger", joined_at=2.0),
        worker("starting", functions=frozenset()),
        worker("leaving", is_draining=True),
    ]
    assert drain_order(pool, needed={"needed"}) == (
        "starting",
        "idle, younger",
        "idle",
        "idle, hot",
        "idle, hot lately",
        "only copy",
        "running",
    )
