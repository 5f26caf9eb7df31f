"""The residency and the ladder together: what is recorded is what was really installed."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.models.low_vram import Ladder, escalate, place
from gen_worker.models.low_vram.facts import Machine
from gen_worker.models.residency import Budgets, Gpus, Residency
from gen_worker.models.residency.gpu_memory import GpuMemory

GIB = 1024**3
GPU = "cuda:0"


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


class Device:
    def __init__(self, name: str) -> None:
        self.type, _, index = name.partition(":")
        self.index = int(index) if index else None


class Weights:
    """A tensor as far as sizes and places go."""

    def __init__(self, size_gb: int) -> None:
        self.size_gb = size_gb
        self.device = Device("cpu")

    def numel(self) -> int:
        return self.size_gb * GIB

    def element_size(self) -> int:
        return 1

    def is_floating_point(self) -> bool:
        return False


class Module:
    def __init__(self, size_gb: int) -> None:
        self.weights = Weights(size_gb)

    def parameters(self) -> list[Weights]:
        return [self.weights]

    def buffers(self) -> list[Weights]:
        return []

    def to(self, device: str) -> None:
        self.weights.device = Device(device)


class Pipeline:
    def __init__(self, size_gb: int, *, fails: type[BaseException] | None = None) -> None:
        self.components = {"unet": Module(size_gb)}
        self.fails = fails
        self.moves: list[str] = []

    def to(self, device: str) -> None:
        self.moves.append(device)
        self.components["unet"].to(device)
        if device != "cpu" and self.fails is not None:
            raise self.fails("while moving")

    def enable_model_cpu_offload(self, gpu_id: int | None = None) -> None:
        self.components["unet"].to("cpu")


class FakeGpus(Gpus):
    def is_available(self) -> bool:
        return True

    def memory(self, index: int = 0) -> GpuMemory:
        return GpuMemory(24 * GIB, 24 * GIB)


MACHINE = Machine(Ladder(), gpus=FakeGpus(), ram_gb=lambda: 64.0)


def put(pipeline: Any, device: str) -> None:
    place(pipeline, device, machine=MACHINE)


@pytest.fixture
def residency() -> Residency:
    return Residency(Budgets(max_vram_gb=20.0, max_ram_gb=64.0))


def test_a_pipeline_that_fits_takes_vram(residency: Residency) -> None:
    residency.use("a", GPU, lambda: Pipeline(8), put=put).release()
    assert residency.used_bytes(GPU) == 8 * GIB
    assert residency.used_bytes("cpu") == 0


def test_a_pipeline_that_does_not_fit_takes_ram_and_is_ready_all_the_same(
    residency: Residency,
) -> None:
    large = Pipeline(30)
    residency.use("small", GPU, lambda: Pipeline(8), put=put).release()
    residency.use("large", GPU, lambda: large, put=put, size_bytes=30 * GIB).release()
    assert residency.inventory().vram_models == ("large",)
    assert residency.inventory().ram_models == ("small",)
    assert residency.used_bytes(GPU) == 0
    assert residency.used_bytes("cpu") == 38 * GIB
    assert residency.over_commits == 0
    residency.demote("large")
    with residency.use("large", GPU, lambda: None, put=put) as again:
        assert again is large
    assert large.moves == []


def test_a_pipeline_that_ran_out_of_memory_is_recorded_as_offloaded(residency: Residency) -> None:
    pipeline = Pipeline(8)
    with residency.use("a", GPU, lambda: pipeline, put=put):
        assert escalate({"a": pipeline}, machine=MACHINE)
        residency.refresh("a")
        assert residency.used_bytes(GPU) == 0
        assert residency.tier("a") == "vram"


def test_one_that_nothing_could_bring_back_is_recorded_in_ram(residency: Residency) -> None:
    class Stuck(Pipeline):
        def enable_model_cpu_offload(self, gpu_id: int | None = None) -> None:
            raise OutOfMemoryError("while enabling")

    pipeline = Stuck(8)
    with residency.use("a", GPU, lambda: pipeline, put=put):
        assert not escalate({"a": pipeline}, machine=MACHINE)
        residency.refresh("a")
        assert residency.tier("a") == "ram"
        assert residency.used_bytes(GPU) == 0


@pytest.mark.parametrize("error", [RuntimeError, OutOfMemoryError])
def test_a_move_that_fails_for_good_leaves_it_in_ram(
    residency: Residency, error: type[BaseException]
) -> None:
    class Whole(Pipeline):
        enable_model_cpu_offload = None  # type: ignore[assignment]

    pipeline = Whole(8, fails=error)
    with pytest.raises(error):
        residency.use("a", GPU, lambda: pipeline, put=put)
    assert residency.tier("a") == "ram"
    assert pipeline.components["unet"].weights.device.type == "cpu"
    assert residency.used_bytes(GPU) == 0
