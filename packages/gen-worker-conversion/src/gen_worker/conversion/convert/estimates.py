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
    "quantize": 0.1e9,
    "gguf": 0.2e9,
    "merge": 0.3e9,
}
"""Of the source, as stored, on two cores. That of casts is measured (bench/convert_cast.py), that
of merges is rough; of methods and types it holds for those that are not below."""
_METHOD_BYTES_PER_S = {
    **{"fp8:e4m3": 200e6, "fp8:e5m2": 90e6, "fp8:e4m3:storage": 400e6, "fp8:e5m2:storage": 550e6},
    **{"int8": 100e6, "int4:wo": 120e6, "nf4": 15e6, "fp4": 15e6},
    **{"mxfp8": 130e6, "mxfp4": 140e6, "nvfp4": 57e6},
}
_BLOCK_BYTES_PER_S = {
    **{"Q8_0": 250e6, "Q5_0": 200e6, "Q5_1": 290e6, "Q4_0": 225e6, "Q4_1": 325e6},
    **{"Q6_K": 17e6, "Q5_K": 8e6, "Q4_K": 10e6, "Q3_K": 11e6, "Q2_K": 17e6},
    **{"IQ4_NL": 2e6, "IQ4_XS": 2e6},
}
"""By method, and by the type of most weights: of 96 MiB of float32 in matrices of 2048 x 4096, the
better of two runs on two cores of a shared x86-64 machine, November 2026; other work ran beside."""
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
    writing_s = component.source_bytes / _rate(component)
    return writing_s + component.operations / _OPERATIONS_PER_S


def _rate(component: ComponentPlan) -> float:
    """Return the bytes of the source that are done in a second."""
    usual = _BYTES_PER_S[component.action]
    if component.action == "quantize":
        from gen_worker.conversion.quantize.methods import lookup_method

        return _METHOD_BYTES_PER_S.get(lookup_method(component.dtype).name, usual)
    if component.action == "gguf":
        from gen_worker.conversion.gguf.types import WRITTEN

        kind = WRITTEN.get(component.dtype)
        return _BLOCK_BYTES_PER_S.get(kind.base, usual) if kind is not None else usual
    return usual
