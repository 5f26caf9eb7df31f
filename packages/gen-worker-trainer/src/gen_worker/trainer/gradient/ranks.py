"""Numbers of a step that are the same in all processes of a run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["added", "world_size"]


def world_size() -> int:
    """Return how many processes train together."""
    distributed = _distributed()
    return 1 if distributed is None else int(distributed.get_world_size())


def added(numbers: Sequence[float]) -> list[float]:
    """Return the sums of numbers over all processes; collective."""
    distributed = _distributed()
    if distributed is None:
        return list(numbers)
    import torch  # type: ignore[import-not-found,unused-ignore]

    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return [float(one) for one in sums.tolist()]


def _distributed() -> Any:
    """Return `torch.distributed` if there are several processes."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed if distributed.get_world_size() > 1 else None
