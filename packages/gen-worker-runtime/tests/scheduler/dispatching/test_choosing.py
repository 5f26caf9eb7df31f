"""Who gets what: where models are, how much runs, what is looked at and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.resources import Resources
from gen_worker.runtime.scheduler import Costs, Policy, Wait, place
from gen_worker.runtime.wire import FunctionCapabilities, Observation, WorkerEvent

if TYPE_CHECKING:
    from conftest import Kit
    from gen_worker.runtime.scheduler.dispatcher import DispatchOptions

GPU: dict[str, Any] = {
    "gpu_count": 1,
    "gpu_memory_bytes": 80 << 30,
    "gpu_memory_free_bytes": 70 << 30,
    "gpu_name": "NVIDIA H200",
    "gpu_sm": "90",
}
REF = "acme/model:prod"


def slow(kit: Kit) -> DispatchOptions:
    """Return how to dispatch what is expected to take minutes: nothing is given ahead."""
    policy = msgspec.structs.replace(kit.easy.policy, usual_run_s=100.0)
    return msgspec.structs.replace(kit.easy, policy=policy)


async def test_a_request_goes_where_its_model_is(kit: Kit) -> None:
    async with kit.scheduling(described={"echo": kit.gpu}) as platform:
        async with (
            kit.puppet(platform, "cold", **GPU),
            kit.puppet(platform, "disk", **GPU, disk_models=(REF,)) as second,
            kit.puppet(platform, "warm", **GPU, vram_models=(REF,)) as first,
        ):
            await platform.submit("r1", refs=(REF,))
            await first.job("r1")
            (model,) = platform.dispatcher.models()
            assert (model.ref, dict(model.workers)) == (REF, {"disk": "disk", "warm": "vram"})
            await first.beat(available_functions=())
            await first.answer("r1")
            await platform.end("r1")
            await platform.submit("r2", refs=(REF,))
            await second.job("r2")


async def test_a_hot_model_gets_a_second_home(kit: Kit) -> None:
    """A backlog that one worker takes long for is worth another load."""
    async with kit.scheduling(described={"echo": kit.gpu}, options=slow(kit)) as platform:
        async with (
            kit.puppet(platform, "cold", **GPU, disk_models=(REF,)) as other,
            kit.puppet(platform, "warm", **GPU, vram_models=(REF,)) as warm,
        ):
            for number in range(3):  # a load takes ten seconds
                await platform.submit(f"r{number}", refs=(REF,))
            assert (await warm.job()).request_id == "r0"
            assert (await other.job()).request_id == "r1"


async def test_a_worker_is_told_what_has_to_make_room(kit: Kit) -> None:
    from gen_worker.runtime.wire import LoadModelResult, UnloadModel

    async with kit.scheduling(described={"echo": kit.gpu}) as platform:
        async with kit.puppet(platform, **GPU, vram_models=("acme/old:prod",)) as worker:
            for ref in ("acme/old:prod", REF):
                await worker.say(LoadModelResult(model_id=ref, success=True, size_bytes=60 << 30))
            await platform.seen(lambda: len(platform.dispatcher.fleet.sizes) == 2)
            await worker.beat(gpu_memory_free_bytes=10 << 30, vram_models=("acme/old:prod",))
            member = platform.dispatcher.fleet.find("w1")
            assert member is not None
            await platform.seen(lambda: REF not in member.gpus[0].models)
            await platform.submit("r1", refs=(REF,))
            assert (await worker.expect(UnloadModel)).model_id == "acme/old:prod"
            await worker.job("r1")


async def test_only_so_many_of_a_function_run(kit: Kit) -> None:
    options = msgspec.structs.replace(kit.easy, max_running={"paint/echo": 2})
    async with kit.scheduling(options=options) as platform:
        async with kit.puppet(platform, available_functions=("echo", "other")) as worker:
            for number in range(3):
                await platform.submit(f"r{number}")
            await platform.submit("o1", "other")
            given = [(await worker.job()).request_id for _ in range(3)]
            assert set(given) == {"r0", "r1", "o1"}
            assert "as may" in platform.dispatcher.waits_for("/echo")
            await worker.answer("r0")
            await worker.job("r2")


async def test_calls_that_run_together_are_given_together(kit: Kit) -> None:
    described = {"echo": {**kit.gpu, "max_batch": 4}}
    async with kit.scheduling(described=described, options=slow(kit)) as platform:
        async with kit.puppet(platform, **GPU) as worker:
            for number in range(6):
                await platform.submit(f"r{number}")
            for _ in range(4):
                await worker.job()
            await platform.seen(lambda: bool(platform.dispatcher.waits_for("/echo")))
            assert worker.commands.empty()
            assert platform.requests.length("/echo") == 2


async def test_a_worker_that_refuses_gets_fewer_at_once(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        for number in range(3):
            await platform.submit(f"r{number}")
        for _ in range(3):
            await worker.job()
        await worker.refuse("r2", "retryable", retryable=True)
        member = platform.dispatcher.fleet.find("w1")
        assert member is not None
        await platform.seen(lambda: member.state().processors[0].slots == 2)
        await worker.answer("r0")
        assert (await worker.job()).request_id == "r2"


async def test_nobody_who_could_run_it_is_said_why(kit: Kit) -> None:
    described = {"echo": {"resources": Resources(min_vram_gb=100)}}
    async with kit.scheduling(described=described) as platform:
        async with kit.puppet(platform, **GPU):
            await platform.submit("r1")
            record = await platform.end("r1")
            assert record.ending is not None
            assert record.ending.failure is not None
            assert record.ending.failure.error_type == "hardware_unmet"
            assert "NVIDIA H200" in record.ending.failure.message


async def test_what_a_worker_can_never_run_is_known_from_its_capabilities(kit: Kit) -> None:
    table = {
        "functions": [
            {"function_name": "echo", "available": False, "unavailable_reason": "no_disk"},
            {"function_name": "soon", "available": False, "unavailable_reason": "models_loading"},
            {"function_name": "other", "available": True},
        ]
    }
    said = FunctionCapabilities(capabilities_json=msgspec.json.encode(table), signature="")
    async with kit.scheduling() as platform:
        async with kit.puppet(platform, available_functions=("other",)) as worker:
            await worker.say(said, FunctionCapabilities(capabilities_json=b"[", signature=""))
            await worker.say(said)
            await platform.submit("r1")
            record = await platform.end("r1")
            assert record.ending is not None
            assert record.ending.failure is not None
            assert record.ending.failure.message.endswith("no_disk")


async def test_only_queues_that_could_be_served_are_looked_at(kit: Kit) -> None:
    """However much waits elsewhere: a look costs, and there are a hundred thousand of them."""
    looks: list[str] = []

    def counted(needs: Any, workers: Any, **rest: Any) -> Any:
        looks.append(needs.function)
        return place(needs, workers, **rest)

    long = msgspec.structs.replace(kit.easy, policy=Policy(look_again_s=1e6, settle_s=0.0))
    async with kit.scheduling(options=long, place=counted) as platform:
        for number in range(50):
            await platform.submit(f"r{number}", f"function-{number}")
        await platform.seen(lambda: len(looks) == 50)
        async with kit.puppet(platform, available_functions=("function-7",)) as worker:
            await worker.job("r7")
            await worker.answer("r7")
            await platform.end("r7")
            for number in range(3):
                await platform.submit(f"more-{number}", "function-7")
                await worker.job()
        assert set(looks[50:]) == {"function-7"}
        # One that gives it; the queue is empty then.
        assert len(looks) <= 50 + 2 * 4


async def test_a_long_queue_costs_a_few_looks_for_each_that_is_given(kit: Kit) -> None:
    looks = 0

    def counted(needs: Any, workers: Any, **rest: Any) -> Any:
        nonlocal looks
        looks += 1
        return place(needs, workers, **rest)

    policy = Policy(look_again_s=1e6, settle_s=0.0, max_prefetched=0)
    options = msgspec.structs.replace(kit.easy, policy=policy, processor_slots=1)
    async with kit.scheduling(options=options, place=counted) as platform:
        for number in range(500):
            await platform.submit(f"r{number}")
        await platform.seen(lambda: bool(platform.dispatcher.waits_for("/echo")))
        async with kit.puppet(platform) as worker:
            await worker.job()
            before = looks
            for number in range(100):
                await worker.answer(f"r{number}")
                await worker.job(f"r{number + 1}")
            assert looks - before <= 500  # and not for each that waits


async def test_what_is_learned_outlives_the_scheduler(kit: Kit) -> None:
    resources = Resources(requires_gpu=True, runtime_scales_with=("steps",))
    described = {"echo": {"resources": resources}}
    ran = Observation(runtime_ms=2000, peak_memory_bytes=1, scaling_factors={"steps": 20.0})
    async with kit.scheduling(described=described) as platform:
        async with kit.puppet(platform, **GPU) as worker:
            for number in range(6):
                await platform.submit(f"r{number}")
                await worker.job()
                result = msgspec.structs.replace(kit.success(f"r{number}"), observation=ran)
                await worker.say(result, role="results")
                await platform.end(f"r{number}")
            metrics = {"models": [{"model_id": REF, "cache_state": "cold_remote"}]}
            metrics["models"][0]["download_ms"] = 70_000  # type: ignore[assignment]
            await worker.say(
                WorkerEvent(
                    request_id="r5",
                    event_type="metrics.job",
                    payload_json=msgspec.json.encode(metrics),
                ),
                role="events",
            )
            loads = platform.dispatcher._learning.loads
            await platform.seen(lambda: loads.need(REF).cold_s == 70.0)
    async with kit.scheduling(described=described) as platform:
        costs: Costs = platform.dispatcher.costs
        name = "acme/paint/echo"
        seen = costs.predict(name, "NVIDIA H200", resources, factors={"steps": 20.0})
        assert seen.run_s == pytest.approx(2.0, rel=0.05)
        assert platform.dispatcher._learning.loads.need(REF).cold_s == 70.0


async def test_a_placement_of_ones_own_is_asked_instead(kit: Kit) -> None:
    def never(needs: Any, workers: Any, *, now: float, **rest: Any) -> Wait:
        return Wait("busy", "on principle", now + 3600)

    async with kit.scheduling(place=never) as platform, kit.puppet(platform):
        await platform.submit("r1")
        await platform.seen(lambda: platform.dispatcher.waits_for("/echo") == "on principle")
        assert platform.requests.length("/echo") == 1
