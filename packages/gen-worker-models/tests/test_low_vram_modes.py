"""The ladder on objects that only have a pipeline's methods: no torch, no GPU."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from gen_worker.models import low_vram
from gen_worker.models.low_vram import (
    Ladder,
    apply_low_vram_config,
    escalate,
    lock_for_pipeline,
    place,
    select_auto_mode,
    with_oom_retry,
)
from gen_worker.models.low_vram.facts import Machine
from gen_worker.models.residency import Gpus
from gen_worker.models.residency.gpu_memory import GpuMemory

GIB = 1024**3
KEYS = {
    "mode",
    "vae_slicing",
    "vae_tiling",
    "attention_slicing",
    "model_offload",
    "group_offload",
    "sequential_offload",
    "disk_offload_path",
    "already_applied",
}


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


class Vae:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def enable_slicing(self) -> None:
        self.calls.append("vae.slicing")

    def enable_tiling(self) -> None:
        self.calls.append("vae.tiling")


class Pipeline:
    """Has every method; the named ones run out of memory so many times."""

    def __init__(self, **failures: int) -> None:
        self.calls: list[str] = []
        self.failures = failures
        self.vae = Vae(self.calls)
        self.options: dict[str, Any] = {}

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.failures.get(name, 0):
            self.failures[name] -= 1
            raise OutOfMemoryError(name)

    def to(self, device: str, dtype: Any = None) -> Pipeline:
        kind = "cpu" if device == "cpu" else "to"
        self._call(kind if dtype is None else f"{kind} {dtype}")
        return self

    def enable_attention_slicing(self) -> None:
        self._call("attention")

    def enable_model_cpu_offload(self, gpu_id: int | None = None) -> None:
        self.options["gpu_id"] = gpu_id
        self._call("model")

    def enable_group_offload(self, **options: Any) -> None:
        self.options = options
        self._call("group")

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None) -> None:
        self.options["gpu_id"] = gpu_id
        self._call("sequential")

    def remove_all_hooks(self) -> None:
        self.calls.append("unhook")

    @property
    def stamp(self) -> str:
        return str(getattr(self, "_cozy_low_vram_mode", ""))


class FakeGpus(Gpus):
    def __init__(self, total: float = 24, free: float | None = None) -> None:
        self.total, self.free = total, total if free is None else free

    def is_available(self) -> bool:
        return self.total > 0

    def memory(self, index: int = 0) -> GpuMemory:
        return GpuMemory(int(self.total * GIB), int(self.free * GIB))

    def flush(self) -> None:
        gc.collect()


def machine(
    total: float = 24, free: float | None = None, ram: float = 64, **ladder: Any
) -> Machine:
    return Machine(Ladder(**ladder), gpus=FakeGpus(total, free), ram_gb=lambda: ram)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the public helpers see a GPU of 24 GiB."""

    def make() -> Machine:
        return Machine(gpus=FakeGpus(), ram_gb=lambda: 64.0)

    for module in ("configure", "retry"):
        monkeypatch.setattr(f"gen_worker.models.low_vram.{module}.Machine", make)


VAE = ["vae.slicing", "vae.tiling", "attention"]
EXPECTED = {
    "off": [],
    "vae_only": VAE,
    "model_offload": ["unhook", "cpu", *VAE, "model"],
    "group_offload": ["unhook", "cpu", *VAE, "group"],
    "sequential": ["unhook", "cpu", *VAE, "sequential"],
}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("mode", EXPECTED)
def test_each_mode_calls_its_methods_and_answers_every_key(mode: str) -> None:
    pipeline = Pipeline()
    result = apply_low_vram_config(pipeline, mode=mode)
    assert set(result) == KEYS
    assert pipeline.calls == EXPECTED[mode]
    assert result["mode"] == pipeline.stamp == mode
    is_vae = mode != "off"
    assert (result["vae_slicing"], result["vae_tiling"], result["attention_slicing"]) == (
        is_vae,
        is_vae,
        is_vae,
    )
    assert result["model_offload"] is (mode == "model_offload")
    assert result["group_offload"] is (mode == "group_offload")
    assert result["sequential_offload"] is (mode == "sequential")
    assert result["already_applied"] is False
    assert apply_low_vram_config(pipeline, mode="sequential") == {
        "mode": mode,
        "already_applied": True,
    }


@pytest.mark.usefixtures("gpu")
def test_group_offload_streams_leaves_and_keeps_them_in_ram() -> None:
    pipeline = Pipeline()
    result = apply_low_vram_config(pipeline, mode="group_offload")
    assert pipeline.options["offload_type"] == "leaf_level"
    assert pipeline.options["use_stream"] is True
    assert str(pipeline.options["onload_device"]) == "cuda:0"
    assert str(pipeline.options["offload_device"]) == "cpu"
    assert "offload_to_disk_path" not in pipeline.options
    assert result["disk_offload_path"] is None


@pytest.mark.usefixtures("gpu")
def test_an_explicit_disk_path_wins(tmp_path: Any) -> None:
    pipeline = Pipeline()
    target = str(tmp_path / "off")
    result = apply_low_vram_config(pipeline, mode="group_offload", offload_to_disk_path=target)
    assert result["disk_offload_path"] == pipeline.options["offload_to_disk_path"] == target


@pytest.mark.parametrize("mode", ["", "AUTO", "model-offload", "none"])
def test_a_wrong_spelling_is_refused_naming_the_modes(mode: str) -> None:
    with pytest.raises(ValueError, match="group_offload"):
        apply_low_vram_config(Pipeline(), mode=mode)


def test_a_stamped_pipeline_still_refuses_a_wrong_mode() -> None:
    pipeline = Pipeline()
    apply_low_vram_config(pipeline, mode="off")
    with pytest.raises(ValueError, match="nonsense"):
        apply_low_vram_config(pipeline, mode="nonsense")


@pytest.mark.parametrize("mode", ["model_offload", "group_offload", "sequential"])
def test_without_a_gpu_the_vae_part_is_applied_and_stamped(mode: str) -> None:
    pipeline = Pipeline()
    result = apply_low_vram_config(pipeline, mode=mode)
    assert result["mode"] == mode
    assert result["vae_slicing"]
    assert not result["model_offload"]
    assert not result["group_offload"]
    assert not result["sequential_offload"]
    assert pipeline.calls == VAE
    assert pipeline.stamp == "vae_only"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("mode", ["auto", "off", "vae_only", "model_offload", "group_offload"])
def test_missing_methods_are_skipped(mode: str) -> None:
    class Bare:
        pass

    pipeline = Bare()
    result = apply_low_vram_config(pipeline, mode=mode)
    assert not any(result[key] for key in KEYS - {"mode"})
    assert getattr(pipeline, "_cozy_low_vram_mode") in ("off", "vae_only")  # noqa: B009


@pytest.mark.usefixtures("gpu")
def test_without_group_offload_it_is_sequential() -> None:
    class NoGroups(Pipeline):
        enable_group_offload = None  # type: ignore[assignment]

    pipeline = NoGroups()
    result = apply_low_vram_config(pipeline, mode="group_offload")
    assert (result["mode"], result["sequential_offload"]) == ("sequential", True)
    assert pipeline.stamp == "sequential"


@pytest.mark.usefixtures("gpu")
def test_a_component_may_have_the_method_instead() -> None:
    class Component:
        options: dict[str, Any] | None = None

        def enable_group_offload(self, **options: Any) -> None:
            self.options = options

    class ByComponent(Pipeline):
        enable_group_offload = None  # type: ignore[assignment]

    pipeline: Any = ByComponent()
    pipeline.transformer = Component()
    result = apply_low_vram_config(pipeline, mode="group_offload")
    assert result["group_offload"] is True
    assert pipeline.transformer.options["offload_type"] == "leaf_level"


@pytest.mark.usefixtures("gpu")
def test_a_step_that_fails_is_not_stamped(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Pipeline):
        def enable_model_cpu_offload(self, gpu_id: int | None = None) -> None:
            raise ValueError("no model_cpu_offload_seq")

    pipeline = Broken()
    result = apply_low_vram_config(pipeline, mode="model_offload")
    assert result["model_offload"] is False
    assert pipeline.stamp == "vae_only"
    assert "no model_cpu_offload_seq" in caplog.text


@pytest.mark.usefixtures("gpu")
def test_model_offload_is_tried_again_with_the_gpus_number() -> None:
    class Old(Pipeline):
        def enable_model_cpu_offload(self, gpu_id: int | None = None) -> None:
            if gpu_id is None:
                raise TypeError("gpu_id")
            super().enable_model_cpu_offload(gpu_id)

    pipeline = Old()
    assert apply_low_vram_config(pipeline, mode="model_offload")["model_offload"]
    assert pipeline.options == {"gpu_id": 0}


@pytest.mark.usefixtures("gpu")
def test_the_environment_stands_for_auto_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COZY_INFERENCE_MEMORY_MODE", "sequential")
    assert apply_low_vram_config(Pipeline())["mode"] == "sequential"
    assert apply_low_vram_config(Pipeline(), mode="vae_only")["mode"] == "vae_only"
    monkeypatch.setenv("COZY_INFERENCE_MEMORY_MODE", "sequentially")
    assert apply_low_vram_config(Pipeline(), model_size_gb=3)["mode"] == "off"


@pytest.mark.usefixtures("gpu")
def test_auto_uses_the_sizes_given() -> None:
    assert apply_low_vram_config(Pipeline(), model_size_gb=23)["mode"] == "model_offload"
    assert apply_low_vram_config(Pipeline(), peak_vram_gb=23)["mode"] == "model_offload"
    assert apply_low_vram_config(Pipeline(), model_size_gb=3)["mode"] == "off"
    assert apply_low_vram_config(Pipeline())["mode"] == "vae_only"


def test_select_auto_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_auto_mode(pipeline=Pipeline(), total_vram_gb=24, model_size_gb=3) == "off"
    assert select_auto_mode(pipeline=Pipeline(), total_vram_gb=24) == "vae_only"
    assert select_auto_mode(pipeline=Pipeline(), total_vram_gb=5) == "group_offload"
    assert select_auto_mode(pipeline=Pipeline(), total_vram_gb=24, peak_vram_gb=23) == (
        "model_offload"
    )
    monkeypatch.setenv("COZY_INFERENCE_GROUP_OFFLOAD_VRAM_GB", "25")
    assert select_auto_mode(pipeline=Pipeline(), total_vram_gb=24) == "group_offload"


def test_what_is_unknown_is_zero() -> None:
    assert low_vram.estimate_pipeline_size_gb(object()) == 0.0
    assert low_vram.get_available_ram_gb() > 0
    assert low_vram.get_total_vram_gb(99) == 0.0
    assert low_vram.get_available_vram_gb(99) == 0.0
    low_vram.flush_memory()


# `with_oom_retry`.


class Call:
    """Runs out of memory so many times, then answers."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    def __call__(self, value: int, *, plus: int = 0) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise OutOfMemoryError("full")
        return value + plus


def test_a_call_that_succeeds_is_made_once() -> None:
    call = Call(0)
    assert with_oom_retry(call, 1, plus=2) == 3
    assert call.calls == 1


def test_without_pipelines_memory_is_flushed_and_the_call_repeated() -> None:
    call = Call(2)
    assert with_oom_retry(call, 1) == 1
    assert call.calls == 3
    with pytest.raises(OutOfMemoryError):
        with_oom_retry(Call(3), 1)
    with pytest.raises(OutOfMemoryError):
        with_oom_retry(Call(1), 1, max_retries=0)


@pytest.mark.usefixtures("gpu")
def test_each_retry_is_one_step_down() -> None:
    pipeline = Pipeline()
    with_oom_retry(Call(1), 1, pipelines=[pipeline])
    assert pipeline.stamp == "vae_only"
    with_oom_retry(Call(2), 1, pipelines=[pipeline])
    assert pipeline.stamp == "group_offload"
    with_oom_retry(Call(1), 1, pipelines=[pipeline])
    assert pipeline.stamp == "sequential"
    call = Call(1)
    with pytest.raises(OutOfMemoryError):
        with_oom_retry(call, 1, pipelines=[pipeline])
    assert call.calls == 1


@pytest.mark.usefixtures("gpu")
def test_hooks_are_taken_off_before_the_next_ones_go_on() -> None:
    pipeline = Pipeline()
    apply_low_vram_config(pipeline, mode="model_offload")
    pipeline.calls.clear()
    with_oom_retry(Call(1), 1, pipelines=[pipeline])
    assert pipeline.calls[0] == "unhook"
    assert pipeline.calls[-1] == "group"


@pytest.mark.usefixtures("gpu")
def test_a_step_that_does_not_fit_gives_the_next() -> None:
    pipeline = Pipeline(model=1)
    apply_low_vram_config(pipeline, mode="vae_only")
    with_oom_retry(Call(1), 1, pipelines=[pipeline])
    assert pipeline.stamp == "group_offload"


@pytest.mark.usefixtures("gpu")
def test_own_steps_and_several_pipelines() -> None:
    first, second = Pipeline(), Pipeline()
    apply_low_vram_config(first, mode="sequential")
    steps = ("model_offload", "sequential")
    with_oom_retry(Call(1), 1, pipelines=[first, second], escalation=steps)
    assert (first.stamp, second.stamp) == ("sequential", "model_offload")
    with pytest.raises(ValueError, match="modeloffload"):
        with_oom_retry(Call(0), 1, escalation=("modeloffload",))


def test_other_errors_pass_untouched() -> None:
    def fail() -> None:
        raise RuntimeError("CUDA out of memory")  # told by type, never by text

    with pytest.raises(RuntimeError, match="CUDA"):
        with_oom_retry(fail, pipelines=[Pipeline()])


def test_without_a_gpu_a_retry_still_helps() -> None:
    pipeline = Pipeline()
    assert with_oom_retry(Call(2), 1, pipelines=[pipeline]) == 1
    assert pipeline.stamp == "vae_only"


@pytest.mark.usefixtures("gpu")
def test_the_failed_attempts_tensors_are_let_go_before_the_retry() -> None:
    import weakref

    class Tensor:
        pass

    seen: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def call() -> None:
        alive.extend(ref() is not None for ref in seen)
        tensor = Tensor()
        seen.append(weakref.ref(tensor))
        if len(seen) == 1:
            raise OutOfMemoryError("full")

    with_oom_retry(call, pipelines=[Pipeline()])
    assert alive == [False]


# `place` and `escalate`.


class Told:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, kind: str, payload: dict[str, Any]) -> None:
        assert kind == "low_vram_mode_applied"
        self.events.append(payload)

    @property
    def short(self) -> list[tuple[Any, ...]]:
        keys = ("stage", "requested_mode", "mode")
        return [
            (*(event[key] for key in keys), *([event["attempt"]] if "attempt" in event else []))
            for event in self.events
        ]


def test_what_fits_is_moved_and_gets_its_baseline() -> None:
    pipeline, told = Pipeline(), Told()
    done = place(pipeline, "cuda:0", model_id="m", tell=told, size_gb=3, machine=machine())
    assert pipeline.calls == ["to"]
    assert (done.mode, done.is_offloaded) == ("off", False)
    assert told.events == [
        {
            "model_id": "m",
            "stage": "baseline",
            "requested_mode": "auto",
            "mode": "off",
            "vae_slicing": False,
            "vae_tiling": False,
            "attention_slicing": False,
            "model_offload": False,
            "group_offload": False,
            "sequential_offload": False,
            "already_applied": False,
        }
    ]


def test_what_does_not_fit_is_not_moved() -> None:
    pipeline, told = Pipeline(), Told()
    done = place(pipeline, "cuda:0", model_id="m", tell=told, size_gb=23, machine=machine())
    assert done.mode == pipeline.stamp == "model_offload"
    assert "to" not in pipeline.calls
    assert told.short == [("preflight", "model_offload", "model_offload")]
    small = Pipeline()
    place(small, "cuda:0", size_gb=4.5, machine=machine(total=5))
    assert small.stamp == "group_offload"


@pytest.mark.parametrize(
    ("failures", "mode", "attempt"),
    [
        ({"to": 1}, "model_offload", 1),
        ({"to": 1, "model": 1}, "group_offload", 2),
        ({"to": 1, "model": 1, "group": 1}, "sequential", 3),
    ],
)
def test_out_of_memory_while_moving_goes_down_step_by_step(
    failures: dict[str, int], mode: str, attempt: int
) -> None:
    pipeline, told = Pipeline(**failures), Told()
    done = place(pipeline, "cuda:0", model_id="m", tell=told, size_gb=3, machine=machine())
    assert done.mode == pipeline.stamp == mode
    assert told.short == [("oom_escalation", mode, mode, attempt)]
    assert pipeline.calls.count("to") == 1


def test_when_nothing_fits_the_error_comes_out_and_nothing_is_installed() -> None:
    pipeline = Pipeline(to=1, model=1, group=1, sequential=1)
    with pytest.raises(OutOfMemoryError, match="sequential"):
        place(pipeline, "cuda:0", size_gb=3, machine=machine())
    assert pipeline.stamp == "vae_only"
    assert pipeline.calls[-1] == "cpu"


def test_an_object_without_steps_is_moved_and_no_more() -> None:
    class Model:
        moved: list[Any]

        def __init__(self) -> None:
            self.moved = []

        def to(self, device: str) -> None:
            self.moved.append(device)
            if len(self.moved) > 1 and device != "cpu":
                raise OutOfMemoryError("full")

    model, told = Model(), Told()
    assert place(model, "cuda:0", dtype="half", tell=told, machine=machine()).mode == ""
    assert model.moved == ["cuda:0"]
    with pytest.raises(OutOfMemoryError):
        place(model, "cuda:0", machine=machine())
    assert model.moved[-1] == "cpu"
    assert told.events == []


def test_another_error_leaves_the_pipeline_in_ram() -> None:
    class Broken(Pipeline):
        def to(self, device: str, dtype: Any = None) -> Pipeline:
            super().to(device, dtype)
            if device != "cpu":
                raise RuntimeError("device-side assert")
            return self

    pipeline = Broken()
    with pytest.raises(RuntimeError, match="assert"):
        place(pipeline, "cuda:0", size_gb=3, machine=machine())
    assert pipeline.calls == ["to", "cpu"]
    assert pipeline.stamp == ""


def test_a_dtype_goes_along_with_the_move() -> None:
    pipeline = Pipeline()
    place(pipeline, "cuda:0", dtype="half", size_gb=3, machine=machine())
    assert pipeline.calls[0] == "to half"


def test_a_forced_mode_decides() -> None:
    forced = Pipeline()
    place(forced, "cuda:0", size_gb=1, machine=machine(mode="group_offload"))
    assert forced.stamp == "group_offload"
    off = Pipeline(to=1)
    place(off, "cuda:0", size_gb=90, machine=machine(mode="off"))
    assert off.stamp == "model_offload"  # tried, and rescued
    vae = Pipeline()
    place(vae, "cuda:0", size_gb=90, machine=machine(mode="vae_only"))
    assert vae.calls == ["to", *VAE]


def test_a_small_gpu_is_not_filled_first() -> None:
    pipeline, told = Pipeline(), Told()
    place(pipeline, "cuda:0", size_gb=1, tell=told, machine=machine(total=5.5))
    assert "to" not in pipeline.calls
    assert told.short == [("baseline", "auto", "group_offload")]


def test_on_a_cpu_nothing_is_offloaded_and_nothing_told() -> None:
    pipeline, told = Pipeline(), Told()
    done = place(pipeline, "cpu", size_gb=90, tell=told, machine=machine(mode="auto"))
    assert done.mode == "off"
    assert told.events == []


def test_the_second_gpu_is_named() -> None:
    pipeline = Pipeline()
    place(pipeline, "cuda:1", size_gb=23, machine=machine())
    assert pipeline.options == {"gpu_id": 1}


def test_an_offloaded_pipeline_stays_until_it_fits() -> None:
    pipeline = Pipeline()
    place(pipeline, "cuda:0", size_gb=20, machine=machine(free=10))
    assert pipeline.stamp == "model_offload"
    pipeline.calls.clear()
    place(pipeline, "cuda:0", size_gb=20, machine=machine(free=10))
    assert pipeline.calls == []
    place(pipeline, "cuda:0", size_gb=20, machine=machine())
    assert pipeline.calls == ["unhook", "cpu", "to"]
    assert pipeline.stamp == "off"


def test_what_ran_out_of_memory_is_not_tried_whole_again() -> None:
    pipeline = Pipeline(to=1)
    place(pipeline, "cuda:0", size_gb=3, machine=machine())
    pipeline.calls.clear()
    place(pipeline, "cuda:0", size_gb=3, machine=machine())
    assert pipeline.calls == []
    assert pipeline.stamp == "model_offload"


def test_pipelines_that_share_components_take_the_same_step() -> None:
    first, second, third = Pipeline(), Pipeline(), Pipeline()
    place(first, "cuda:0", size_gb=3, machine=machine())
    place(second, "cuda:0", size_gb=23, companions={"first": first}, machine=machine())
    assert first.stamp == second.stamp == "model_offload"
    place(third, "cuda:0", size_gb=1, companions={"first": first}, machine=machine())
    assert third.stamp == "model_offload"


def test_escalation_from_whole_offloads_at_once_and_is_told() -> None:
    pipeline, told = Pipeline(), Told()
    place(pipeline, "cuda:0", size_gb=3, machine=machine())
    assert escalate({"m": pipeline}, attempt=1, tell=told, machine=machine())
    assert escalate({"m": pipeline}, attempt=2, tell=told, machine=machine())
    assert told.short == [
        ("oom_escalation", "model_offload", "model_offload", 1),
        ("oom_escalation", "group_offload", "group_offload", 2),
    ]
    assert escalate({"m": pipeline}, machine=machine())
    assert pipeline.stamp == "sequential"
    assert not escalate({"m": pipeline}, machine=machine())
    assert not escalate({"m": object()}, machine=machine())
    assert not escalate({}, machine=machine())


def test_a_step_that_is_missing_is_skipped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    class NoModelOffload(Pipeline):
        enable_model_cpu_offload = None  # type: ignore[assignment]

    pipeline = NoModelOffload()
    assert escalate({"m": pipeline}, machine=machine())
    assert pipeline.stamp == "group_offload"
    assert "NoModelOffload has no model_offload" in caplog.text


def test_steps_that_do_not_fit_are_given_up() -> None:
    pipeline = Pipeline(model=1, group=1, sequential=1)
    assert not escalate({"m": pipeline}, machine=machine())
    assert pipeline.stamp == "vae_only"


def test_short_ram_puts_weights_on_disk(tmp_path: Any) -> None:
    pipeline, told = Pipeline(), Told()
    here = machine(total=5, ram=3, directory=str(tmp_path / "off"))
    place(pipeline, "cuda:0", size_gb=4.5, tell=told, machine=here)
    assert pipeline.options["offload_to_disk_path"] == str(tmp_path / "off")
    assert told.events[0]["disk_offload_path"] == str(tmp_path / "off")


def test_one_pipeline_that_can_run_in_no_way_ends_the_retries() -> None:
    stuck, fine = Pipeline(model=1, group=1, sequential=1), Pipeline()
    assert not escalate({"a": stuck, "b": fine}, machine=machine())
    assert (stuck.stamp, fine.stamp) == ("vae_only", "model_offload")


class OnGpu(Pipeline):
    """Says where it is, as diffusers does: on the CPU once hooks move it."""

    device = "cpu"

    def to(self, device: str, dtype: Any = None) -> Pipeline:
        self.device = device
        return super().to(device, dtype)


def test_a_pipeline_is_offloaded_on_the_gpu_it_came_to_last() -> None:
    pipeline = OnGpu()
    place(pipeline, "cuda:0", size_gb=3, machine=machine())
    pipeline.to("cpu")
    place(pipeline, "cuda:1", size_gb=3, machine=machine())
    assert escalate({"m": pipeline}, machine=machine())
    assert pipeline.options == {"gpu_id": 1}
    assert escalate({"m": pipeline}, machine=machine())
    assert str(pipeline.options["onload_device"]) == "cuda:1"


@pytest.mark.usefixtures("gpu")
def test_a_retry_stays_on_the_gpu_of_the_hooks_and_is_not_undone() -> None:
    pipeline = OnGpu()
    place(pipeline, "cuda:1", size_gb=23, machine=machine())
    with_oom_retry(Call(1), 1, pipelines=[pipeline])
    assert str(pipeline.options["onload_device"]) == "cuda:1"
    place(pipeline, "cuda:1", size_gb=1, machine=machine())
    assert pipeline.stamp == "group_offload"


def test_whoever_waits_for_an_escalation_goes_on_after_it() -> None:
    """The error's traceback begins with the coroutine that caught it, and that one is no past."""

    async def call() -> bool:
        try:
            raise OutOfMemoryError("full")
        except OutOfMemoryError as caught:
            error = caught
        waits = threading.Event()

        def take_down() -> bool:
            assert waits.wait(60)
            return escalate({"m": Pipeline()}, error=error, machine=machine())

        asyncio.get_running_loop().call_soon(waits.set)
        return await asyncio.to_thread(take_down)

    assert asyncio.run(call())


def test_errors_that_name_each_other_as_their_cause_are_let_go() -> None:
    first, second = OutOfMemoryError("first"), OutOfMemoryError("second")
    first.__cause__, second.__cause__ = second, first
    assert escalate({"m": Pipeline()}, error=first, machine=machine())


# Locks.


def wait_for(lock: Any, done: threading.Event) -> None:
    with lock:
        done.set()


def test_a_pipeline_has_one_reentrant_lock_as_long_as_it_lives() -> None:
    pipeline, other = Pipeline(), Pipeline()
    lock = lock_for_pipeline(pipeline)
    assert lock is lock_for_pipeline(pipeline)
    assert lock is not lock_for_pipeline(other)
    with lock, lock:
        apply_low_vram_config(pipeline, mode="vae_only")
    done = threading.Event()
    with lock:
        thread = threading.Thread(target=wait_for, args=(lock, done))
        thread.start()
        assert not done.is_set()
    assert done.wait(60)
    thread.join()
