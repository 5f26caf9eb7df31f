"""Tensors as recipes: opened from files, renamed, joined and computed before a byte is read.

A checkpoint is a mapping from names to recipes. Transformations take one and return another; the
writers ask for the rows, slab by slab, so memory does not grow with the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.lazy.arithmetic import (
        cast,
        combine,
        computed,
        low_rank,
        scale,
        slerp,
    )
    from gen_worker.conversion.lazy.opening import OpenCheckpoint, open_checkpoint
    from gen_worker.conversion.lazy.shaping import concat, narrow, permute, reshape, split
    from gen_worker.conversion.lazy.tensor import (
        SLAB_BYTES,
        Checkpoint,
        Extent,
        LazyTensor,
        slabs,
    )

__all__ = [
    "SLAB_BYTES",
    "Checkpoint",
    "Extent",
    "LazyTensor",
    "OpenCheckpoint",
    "cast",
    "combine",
    "computed",
    "concat",
    "low_rank",
    "narrow",
    "open_checkpoint",
    "permute",
    "reshape",
    "scale",
    "slabs",
    "slerp",
    "split",
]

_MODULES = {
    "arithmetic": ("cast", "combine", "computed", "low_rank", "scale", "slerp"),
    "opening": ("OpenCheckpoint", "open_checkpoint"),
    "shaping": ("concat", "narrow", "permute", "reshape", "split"),
    "tensor": ("SLAB_BYTES", "Checkpoint", "Extent", "LazyTensor", "slabs"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
