"""Gathers what the ladder decides on: sizes of pipelines, memory of GPUs and of the host."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gen_worker.models.low_vram.ladder import Facts, Ladder, auto_mode
from gen_worker.models.residency.gpu_memory import GpuMemory, Gpus, index_of
from gen_worker.models.residency.host_memory import read_host_memory
from gen_worker.models.residency.values import GIB
from gen_worker.models.residency.weights import device_bytes, modules_of, weight_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Machine",
    "denoisers_of",
    "estimate_pipeline_size_gb",
    "flush_memory",
    "get_available_ram_gb",
    "get_available_vram_gb",
    "get_total_vram_gb",
    "select_auto_mode",
]

_DENOISERS = ("transformer", "unet", "prior")


class Machine:
    """Where the ladder runs: its GPUs, its RAM and the operator's settings."""

    def __init__(
        self,
        ladder: Ladder | None = None,
        *,
        gpus: Gpus | None = None,
        ram_gb: Callable[[], float] | None = None,
    ) -> None:
        self.gpus = gpus or Gpus()
        self.ram_gb = ram_gb or get_available_ram_gb
        self._ladder = ladder

    @property
    def ladder(self) -> Ladder:
        """The settings given, else those of the environment as it is now."""
        if self._ladder is not None:
            return self._ladder
        from gen_worker.models.settings import load_model_settings

        return Ladder.of(load_model_settings())

    def facts(
        self,
        pipeline: Any,
        device: str,
        *,
        size_gb: float | None = None,
        peak_gb: float | None = None,
    ) -> Facts:
        """Return what is known of a pipeline that is to run on a device."""
        index = index_of(device)
        memory = GpuMemory() if index is None else self.gpus.memory(index)
        measured = estimate_pipeline_size_gb(pipeline)
        return Facts(
            total_gb=memory.total_bytes / GIB,
            free_gb=memory.free_bytes / GIB,
            # Files may be stored in another precision than the pipeline has.
            size_gb=measured or size_gb or 0.0,
            peak_gb=peak_gb or 0.0,
            placed_gb=device_bytes(pipeline, index or 0) / GIB,
            cast_saves_gb=sum(map(_cast_saves, denoisers_of(pipeline).values())) / GIB,
            ram_gb=self.ram_gb(),
        )


def get_total_vram_gb(index: int = 0) -> float:
    """Return the GiB of a GPU; 0.0 when unknown."""
    return Gpus().memory(index).total_bytes / GIB


def get_available_vram_gb(index: int = 0) -> float:
    """Return the GiB of a GPU that are free or that torch keeps unused; 0.0 when unknown."""
    return Gpus().memory(index).free_bytes / GIB


def get_available_ram_gb() -> float:
    """Return the GiB of RAM the machine and its control groups leave; 0.0 when unknown."""
    return read_host_memory().available_bytes / GIB


def flush_memory() -> None:
    """Collect garbage, give unused GPU memory back and start the peak statistics anew."""
    Gpus().flush()


def estimate_pipeline_size_gb(pipeline: Any) -> float:
    """Return the GiB of a pipeline's parameters and buffers; 0.0 when it has none."""
    return weight_bytes(pipeline) / GIB


def select_auto_mode(
    *,
    pipeline: Any,
    total_vram_gb: float | None = None,
    model_size_gb: float | None = None,
    peak_vram_gb: float | None = None,
) -> str:
    """Return what `auto` means for a pipeline; what is not given is measured.

    The environment's thresholds count, `COZY_INFERENCE_MEMORY_MODE` does not.
    """
    machine = Machine()
    if total_vram_gb is None:
        index = index_of(getattr(pipeline, "device", "cpu"))
        total_vram_gb = get_total_vram_gb(current_gpu() if index is None else index)
    size_gb = estimate_pipeline_size_gb(pipeline) if model_size_gb is None else model_size_gb
    facts = Facts(total_gb=total_vram_gb, size_gb=size_gb, peak_gb=peak_vram_gb or 0.0)
    return auto_mode(facts, machine.ladder)


def denoisers_of(pipeline: Any) -> dict[str, Any]:
    """Return the modules that run once for each step."""
    modules = modules_of(pipeline)
    return {name: module for name, module in modules.items() if name.startswith(_DENOISERS)}


def current_gpu() -> int:
    """Return the number of torch's current GPU, 0 when there is none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.device_count():
        return 0
    return int(torch.cuda.current_device())


def _cast_saves(module: Any) -> int:
    """Return the bytes that storing a module's weights in 8 bits saves; 0 when it cannot."""
    if not callable(getattr(module, "enable_layerwise_casting", None)):
        return 0
    if getattr(module, "hf_quantizer", None) is not None:
        return 0
    wide = (x for x in module.parameters() if x.is_floating_point() and x.element_size() > 1)
    return sum(int(x.numel()) * (x.element_size() - 1) for x in wide)
