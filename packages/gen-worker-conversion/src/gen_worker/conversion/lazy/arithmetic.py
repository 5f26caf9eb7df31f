"""Recipes that compute: casts, sums, low-rank updates. Halves are worked on in float32."""

from __future__ import annotations

import math
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.dtypes import FLOATS, torch_dtype
from gen_worker.conversion.lazy.slab_memory import slab_memory
from gen_worker.conversion.lazy.tensor import LazyTensor, slabs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["cast", "combine", "computed", "low_rank", "scale", "slerp"]

_FROM = (*FLOATS, "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_PARALLEL = 0.9995
"""Cosine from which on mergekit and others take a straight line, too."""


def cast(tensor: LazyTensor, dtype: str) -> LazyTensor:
    """Return a floating-point tensor in another precision, rounded to nearest even.

    What is too large for float16 becomes infinite, as in torch; the writer counts those.

    Raises:
        ConversionInputError: Either dtype is no plain float: eight bits need scales, which a cast
            has not.
    """
    if tensor.dtype == dtype:
        return tensor
    if dtype not in FLOATS or tensor.dtype not in _FROM:
        raise ConversionInputError(
            f"{tensor!r} cannot be cast to {dtype!r}: a cast leads to {', '.join(FLOATS)} from a "
            "float; choose a quantization method for fewer bits"
        )
    return _Elementwise((tensor,), dtype, _cast_rows)


def scale(tensor: LazyTensor, factor: float) -> LazyTensor:
    """Return the tensor multiplied by a number, in its own dtype."""
    return combine([(factor, tensor)], tensor.dtype)


def combine(terms: Sequence[tuple[float, LazyTensor]], dtype: str) -> LazyTensor:
    """Return the weighted sum of tensors of one shape, computed in float32.

    Raises:
        ConversionInputError: Their shapes differ.
    """
    first = terms[0][1]
    for _, other in terms:
        if other.shape != first.shape:
            raise ConversionInputError(f"{first!r} and {other!r} cannot be added: shapes differ")
    weights = [weight for weight, _ in terms]

    def add(*made_and_dtype: Any) -> Any:
        *made, wanted = made_and_dtype
        total = made[0].float() * weights[0]
        for weight, other in zip(weights[1:], made[1:], strict=True):
            total.add_(other.float(), alpha=weight)
        return total.to(wanted)

    return _Elementwise(tuple(tensor for _, tensor in terms), dtype, add, work_bytes=8)


def low_rank(
    tensor: LazyTensor, up: LazyTensor, down: LazyTensor, factor: float = 1.0
) -> LazyTensor:
    """Return `tensor + factor * up @ down`, as LoRA weights are merged, in the tensor's dtype.

    Args:
        tensor: Weights of a linear layer or a convolution.
        up: Shape `(rows, rank)`, further dimensions of size 1.
        down: Shape `(rank, ...)`; as many elements in each row as `tensor` has.
        factor: Such as `strength * alpha / rank`.

    Raises:
        ConversionInputError: The shapes do not fit.
    """
    rank = up.row_elements
    fits = up.row_count == tensor.row_count and down.row_count == rank
    if not fits or down.row_elements != tensor.row_elements:
        raise ConversionInputError(f"{up!r} times {down!r} has not the shape of {tensor!r}")
    return _LowRank(tensor, up, down, factor)


def slerp(first: LazyTensor, second: LazyTensor, position: float) -> LazyTensor:
    """Return the point between two tensors of one shape on the arc that joins them.

    Nearly parallel ones are joined by a straight line. The angle takes a pass over both, slab by
    slab, at the first read.

    Raises:
        ConversionInputError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ConversionInputError(f"{first!r} and {second!r} cannot be joined: shapes differ")
    return _Slerp(first, second, position)


def computed(
    rows: Callable[[int, int], Any],
    *,
    shape: Sequence[int],
    dtype: str,
    of: Sequence[LazyTensor],
    row_cost_bytes: int | None = None,
    is_whole: bool = False,
) -> LazyTensor:
    """Return a tensor that a function makes.

    Args:
        rows: Does what `LazyTensor.rows` promises, with `of` or without.
        shape: Of the result.
        dtype: Of the result.
        of: What it is made of, for plans; its rows need not be those of the result.
        row_cost_bytes: What one row holds in memory; by default the sum over `of` and the row.
        is_whole: Whether the function needs all of `of` for any row.
    """
    return _Computed(rows, shape, dtype, tuple(of), row_cost_bytes, is_whole)


def _cast_rows(made: Any, wanted: Any) -> Any:
    cast_bytes = slab_memory(made.numel() * wanted.itemsize)
    return cast_bytes.view(wanted).view(made.shape).copy_(made)


class _Elementwise(LazyTensor):
    def __init__(
        self,
        operands: tuple[LazyTensor, ...],
        dtype: str,
        work: Callable[..., Any],
        *,
        work_bytes: int = 0,
    ) -> None:
        super().__init__(operands[0].shape, dtype)
        self.operands = operands
        self.work = work
        self.work_bytes = work_bytes
        self.is_whole = any(operand.is_whole for operand in operands)
        self.is_elementwise = all(operand.is_elementwise for operand in operands)

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return self.operands

    @property
    def row_cost_bytes(self) -> int:
        return super().row_cost_bytes + self.work_bytes * self.row_elements

    def flat(self) -> LazyTensor:
        if len(self.shape) == 1:
            return self
        flat = tuple(operand.flat() for operand in self.operands)
        return _Elementwise(flat, self.dtype, self.work, work_bytes=self.work_bytes)

    def rows(self, start: int, stop: int) -> Any:
        made = [operand.rows(start, stop) for operand in self.operands]
        return self.work(*made, torch_dtype(self.dtype))


class _LowRank(LazyTensor):
    def __init__(self, tensor: LazyTensor, up: LazyTensor, down: LazyTensor, factor: float) -> None:
        super().__init__(tensor.shape, tensor.dtype)
        self.base = tensor
        self.up = up
        self.down = down
        self.factor = factor
        self.is_whole = tensor.is_whole

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.base, self.up, self.down)

    @property
    def row_cost_bytes(self) -> int:
        """Of the base, its update and the sum in float32; `down` is in memory beside the rows."""
        return self.base.row_cost_bytes + self.up.row_cost_bytes + 12 * self.row_elements

    def rows(self, start: int, stop: int) -> Any:
        made = self.base.rows(start, stop)
        up = self.up.rows(start, stop).float().reshape(stop - start, -1)
        down = self.down.tensor().float().reshape(self.down.row_count, -1)
        update = (up @ down).reshape(made.shape)
        return made.float().add_(update, alpha=self.factor).to(torch_dtype(self.dtype))


class _Slerp(LazyTensor):
    def __init__(self, first: LazyTensor, second: LazyTensor, position: float) -> None:
        super().__init__(first.shape, first.dtype)
        self.first = first
        self.second = second
        self.position = position
        self.is_elementwise = first.is_elementwise and second.is_elementwise
        self.is_whole = first.is_whole or second.is_whole
        self._lock = threading.Lock()

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.first, self.second)

    @property
    def row_cost_bytes(self) -> int:
        return super().row_cost_bytes + 8 * self.row_elements

    def flat(self) -> LazyTensor:
        if len(self.shape) == 1:
            return self
        return _Slerp(self.first.flat(), self.second.flat(), self.position)

    def rows(self, start: int, stop: int) -> Any:
        with self._lock:  # one thread measures the angle, the others wait for it
            sum_ = self._sum
        return sum_.rows(start, stop)

    @cached_property
    def _sum(self) -> LazyTensor:
        first, second = _arc_weights(_cosine(self.first, self.second), self.position)
        return combine([(first, self.first), (second, self.second)], self.dtype)


def _cosine(first: LazyTensor, second: LazyTensor) -> float:
    """Return the cosine of the angle between two tensors; 1 when one of them is zero."""
    products = [0.0, 0.0, 0.0]
    pair = combine([(1.0, first), (1.0, second)], "F32")  # slabs that hold both
    for start, stop in slabs(pair):
        one, other = (tensor.rows(start, stop).double() for tensor in (first, second))
        for index, (left, right) in enumerate(((one, other), (one, one), (other, other))):
            products[index] += float((left * right).sum())
    lengths = math.sqrt(products[1] * products[2])
    return min(max(products[0] / lengths, -1.0), 1.0) if lengths else 1.0


def _arc_weights(cosine: float, position: float) -> tuple[float, float]:
    if abs(cosine) > _PARALLEL:
        return 1.0 - position, position
    angle = math.acos(cosine)
    return (
        math.sin((1.0 - position) * angle) / math.sin(angle),
        math.sin(position * angle) / math.sin(angle),
    )


class _Computed(LazyTensor):
    def __init__(
        self,
        make: Callable[[int, int], Any],
        shape: Sequence[int],
        dtype: str,
        of: tuple[LazyTensor, ...],
        cost: int | None,
        is_whole: bool,
    ) -> None:
        super().__init__(shape, dtype)
        self.make = make
        self.of = of
        self.cost = cost
        self.is_whole = is_whole

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return self.of

    @property
    def row_cost_bytes(self) -> int:
        return super().row_cost_bytes if self.cost is None else self.cost

    def rows(self, start: int, stop: int) -> Any:
        return self.make(start, stop)
