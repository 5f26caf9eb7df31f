"""Names of precisions, and the short ones that refs, hubs and reports use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["OF_DTYPE", "shared_precision", "short_precision"]

OF_DTYPE = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}
"""By the dtypes in headers of safetensors."""

_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def short_precision(name: str) -> str:
    """Return the short name where there is one, else the name itself."""
    return _SHORT.get(name, name)


def shared_precision(dtypes: Iterable[str]) -> str:
    """Return the one precision that tensors of these dtypes have; empty when there are several.

    Dtypes that are no precision of weights, such as a mask's, do not count.
    """
    told = {OF_DTYPE[dtype] for dtype in dtypes if dtype in OF_DTYPE}
    return told.pop() if len(told) == 1 else ""
