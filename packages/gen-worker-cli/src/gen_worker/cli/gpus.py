"""Which GPUs this machine has, as commands show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.host_requirements import Gpu

__all__ = ["find_gpus"]


def find_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs CUDA sees here, in its order; none where there is no driver."""
    from gen_worker.runtime.worker import gpus

    found = gpus.host_facts(gpus.find_gpus()).gpus
    return tuple(gpu._replace(vram_gb=round(gpu.vram_gb, 2)) for gpu in found)
