"""Counts of what is no number in weights: a sign of a damaged source, or of a cast too narrow."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from gen_worker.conversion.lazy.tensor import LazyTensor

__all__ = ["CountedTensor", "NonFinite", "count_nonfinite", "counted_rows"]

_WIDE = frozenset({"F64", "F32", "F16", "BF16"})
_ONES_OF_E5M2 = 0x7C  # exponent all ones: infinite with an empty mantissa
_NAN_OF_E4M3 = 0x7F  # it has no infinity


class NonFinite(NamedTuple):
    """How many elements are no finite numbers."""

    nan: int
    inf: int

    def __add__(self, other: object) -> NonFinite:
        assert isinstance(other, NonFinite)
        return NonFinite(self.nan + other.nan, self.inf + other.inf)


_NONE = NonFinite(0, 0)


class CountedTensor(LazyTensor):
    """A recipe whose rows no longer show what was no number in what they are made of."""

    @abstractmethod
    def counted_rows(self, start: int, stop: int) -> tuple[Any, NonFinite]:
        """Do as `rows`, and count in the values that the rows are made of."""


def counted_rows(tensor: LazyTensor, start: int, stop: int) -> tuple[Any, NonFinite]:
    """Return rows in one piece of memory, and what of their values is no finite number."""
    if isinstance(tensor, CountedTensor):
        return tensor.counted_rows(start, stop)
    made = tensor.rows(start, stop).contiguous()
    return made, count_nonfinite(made, tensor.dtype)


def count_nonfinite(tensor: Any, dtype: str) -> NonFinite:
    """Count them in a tensor of this safetensors dtype; of other formats than floats none."""
    if tensor.numel() == 0:
        return _NONE
    if dtype in _WIDE:
        return _count_wide(tensor)
    if dtype in ("F8_E4M3", "F8_E5M2"):
        return _count_eight_bits(tensor, dtype)
    return _NONE


def _count_wide(tensor: Any) -> NonFinite:
    import torch  # type: ignore[import-not-found,unused-ignore]

    # Both ends are NaN as soon as one element is: one pass, 20 times as fast as `isfinite().all()`.
    low, high = torch.aminmax(tensor)
    if bool(torch.isfinite(low)) and bool(torch.isfinite(high)):
        return _NONE
    return NonFinite(int(torch.isnan(tensor).sum()), int(torch.isinf(tensor).sum()))


def _count_eight_bits(tensor: Any, dtype: str) -> NonFinite:
    import torch  # type: ignore[import-not-found,unused-ignore]

    magnitudes = tensor.view(torch.uint8) & 0x7F
    if dtype == "F8_E4M3":
        return NonFinite(int((magnitudes == _NAN_OF_E4M3).sum()), 0)
    return NonFinite(
        int((magnitudes > _ONES_OF_E5M2).sum()), int((magnitudes == _ONES_OF_E5M2).sum())
    )
