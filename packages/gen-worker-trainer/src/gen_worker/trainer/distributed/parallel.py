"""One model in several processes: a copy in each, or a part of it.

Everything here works on torch's default process group, and does nothing without one. A module
stays what it is: its class, its names and its methods are the author's.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Parallel", "parallel_of", "share_gradients", "wrap"]

Parallel = Literal["none", "ddp", "fsdp"]
"""What the processes have of a model: what each likes; copies; parts."""

_BUCKET_BYTES = 64 * 1024 * 1024
"""Gradients that are exchanged at a time."""


def parallel_of(value: object) -> Parallel:
    """Return `hyperparams.parallel`, copies by default.

    Raises:
        ValueError: It is none of them.
    """
    name = str(value or "").strip().lower() or "ddp"
    if name not in get_args(Parallel):
        raise ValueError(f"parallel must be {', '.join(get_args(Parallel))}, it is {value!r}")
    return cast("Parallel", name)


def wrap(module: Any, parallel: str, *, device: Any = "cpu") -> Any:
    """Make a module one of several processes, and return it; collective.

    Before an optimizer is made of its parameters, and on the device where it will be.

    Args:
        module: Made alike in each process.
        parallel: `ddp`: all get the tensors of the first process, and gradients are exchanged by
            `share_gradients` before each step. `fsdp`: each keeps a part of every parameter
            (`fully_shard` of the blocks in its lists, then of the rest), and the backward pass
            exchanges gradients. `none`: nothing is done.
        device: Of the module.
    """
    dist = _distributed()
    kind = parallel_of(parallel)
    if dist is None or kind == "none":
        return module
    if kind == "ddp":
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), 0)
        return module
    from torch.distributed.device_mesh import (  # type: ignore[import-not-found,unused-ignore]
        init_device_mesh,
    )
    from torch.distributed.fsdp import (  # type: ignore[import-not-found,unused-ignore]
        fully_shard,
    )

    mesh = init_device_mesh(str(device).partition(":")[0], (dist.get_world_size(),))
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def share_gradients(modules: Sequence[Any], parameters: Sequence[Any]) -> None:
    """Replace gradients by their means over all processes, and buffers by the first one's.

    A parameter that is used in some processes only counts as zero in the others; it may be in as
    many passes as each process likes. Collective.

    Args:
        modules: Whose buffers these are.
        parameters: The same in each process.
    """
    dist = _distributed()
    if dist is None or dist.get_world_size() == 1:
        return
    import torch  # type: ignore[import-not-found,unused-ignore]

    used = torch.tensor([one.grad is not None for one in parameters], dtype=torch.int32)
    if parameters and dist.get_backend() == "nccl":
        used = used.to(parameters[0].device)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    gradients = []
    for parameter, is_used in zip(parameters, used.tolist(), strict=True):
        if is_used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat: Any = torch.cat([one.reshape(-1) for one in bucket])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([one.numel() for one in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
    for module in modules:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def _buckets(gradients: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield gradients of one dtype and device, so many at a time."""
    open_buckets: dict[Any, list[Any]] = {}
    sizes: dict[Any, int] = {}
    for gradient in gradients:
        kind = (gradient.dtype, gradient.device)
        open_buckets.setdefault(kind, []).append(gradient)
        sizes[kind] = sizes.get(kind, 0) + gradient.numel() * gradient.element_size()
        if sizes[kind] >= _BUCKET_BYTES:
            yield open_buckets.pop(kind)
            sizes[kind] = 0
    yield from open_buckets.values()


def _blocks(module: Any) -> Iterator[Any]:
    """Yield the modules in lists, such as the layers of a transformer, the outermost only."""
    import torch

    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def _distributed() -> Any:
    """Return `torch.distributed` where a process group is."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed
