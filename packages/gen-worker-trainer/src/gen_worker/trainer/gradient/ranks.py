"""The gradients of several processes as those of one: the only place that knows of the others."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["added", "averaged", "syncing", "world_size"]


def world_size() -> int:
    """Return how many processes train together."""
    distributed = _distributed()
    return 1 if distributed is None else int(distributed.get_world_size())


@contextmanager
def syncing(modules: Mapping[str, Any], *, is_wanted: bool) -> Iterator[None]:
    """Have the backward pass within exchange gradients, or leave that to a later one.

    Args:
        modules: Those of `DistributedDataParallel`, and those that are sharded or replicated in
            place, exchange them by themselves.
        is_wanted: Whether this is the last pass of a step.
    """
    with ExitStack() as stack:
        for module in modules.values():
            if hasattr(module, "set_requires_gradient_sync"):
                module.set_requires_gradient_sync(is_wanted)
            elif hasattr(module, "no_sync") and not is_wanted:
                stack.enter_context(module.no_sync())
        yield


def added(numbers: Sequence[float]) -> list[float]:
    """Return the sums of numbers over all processes."""
    distributed = _distributed()
    if distributed is None:
        return list(numbers)
    import torch  # type: ignore[import-not-found,unused-ignore]

    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return [float(one) for one in sums.tolist()]


def averaged(gradients: Sequence[Any]) -> None:
    """Exchange gradients that no backward pass has, because the data ended before the last one."""
    distributed = _distributed()
    if distributed is None:
        return
    for gradient in gradients:
        distributed.all_reduce(gradient)
        gradient /= distributed.get_world_size()


def _distributed() -> Any:
    """Return `torch.distributed` if there are several processes."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed if distributed.get_world_size() > 1 else None
