"""What a conversion takes: memory by rule, time about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.conversion.convert.values import Action, ComponentPlan
    from gen_worker.conversion.lazy import LazyTensor

__all__ = ["memory_bytes", "seconds_of", "whole_bytes"]

_SLABS_BYTES = 200 << 20
_WHOLE_BYTES = 300 << 20
_BYTES_PER_S: dict[Action, float] = {
    "cast": 0.5e9,
    "copy": 0.8e9,
    "quantize": 0.2e9,
    "gguf": 0.1e9,
    "merge": 0.3e9,
}
"""Of the source, as stored, on two cores. That of casts is measured (bench/convert_cast.py);
the others are rough, and too high for K-quants."""
_OPERATIONS_PER_S = 5e10
"""Of calibration: products of float32 matrices on two cores, about half of their peak."""


def whole_bytes(tensors: Iterable[LazyTensor]) -> int:
    """Return what two tensors take that must be in memory whole, at most; 0 without such."""
    costs = [
        tensor.size_bytes + sum(one.size_bytes for one in tensor.inputs)
        for tensor in tensors
        if tensor.is_whole
    ]
    return sum(sorted(costs)[-2:])


def memory_bytes(components: Iterable[ComponentPlan]) -> int:
    """Return the peak beyond `import torch`: a few slabs, or the two largest whole tensors."""
    whole = max((part.memory_bytes for part in components), default=0)
    return whole + _WHOLE_BYTES if whole else _SLABS_BYTES


def seconds_of(component: ComponentPlan) -> float:
    writing_s = component.source_bytes / _BYTES_PER_S[component.action]
    return writing_s + component.operations / _OPERATIONS_PER_S
