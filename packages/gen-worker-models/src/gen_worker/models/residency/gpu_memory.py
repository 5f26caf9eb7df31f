"""What torch says of the GPUs, and which errors mean that one of them is full."""

from __future__ import annotations

import gc
import sys
from typing import Any, NamedTuple

__all__ = ["GpuMemory", "Gpus", "index_of"]

_CUDA_ERROR_MEMORY_ALLOCATION = 2  # cudaErrorMemoryAllocation in CUDA's driver_types.h


class GpuMemory(NamedTuple):
    """Bytes of one GPU; zero when unknown."""

    total_bytes: int = 0
    free_bytes: int = 0


class Gpus:
    """The GPUs as torch sees them. A machine without torch has none."""

    def is_available(self) -> bool:
        """Tell whether there is a GPU that torch can use."""
        torch = _torch()
        return torch is not None and bool(torch.cuda.is_available())

    def memory(self, index: int = 0) -> GpuMemory:
        """Return what one GPU has; what torch keeps for itself without using it counts as free."""
        torch = _torch()
        if torch is None or not torch.cuda.is_available() or index >= torch.cuda.device_count():
            return GpuMemory()
        free, total = torch.cuda.mem_get_info(index)
        idle = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
        return GpuMemory(total, free + max(0, idle))

    def allocated_bytes(self, index: int = 0) -> int:
        """Return what torch's tensors take of one GPU."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return 0
        return int(torch.cuda.memory_allocated(index))

    def flush(self) -> None:
        """Collect garbage, give unused memory back and start the peak statistics anew."""
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return
        torch.cuda.empty_cache()
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)


def index_of(device: Any) -> int | None:
    """Return the number of a GPU, 0 for a bare `cuda`; None when the device is no GPU."""
    kind, _, number = str(device).partition(":")
    if kind != "cuda":
        return None
    return int(number) if number.isdigit() else 0


def _torch() -> Any:
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    return torch
