"""Recipes that move elements and change none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.tensor import LazyTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["concat", "narrow", "permute", "reshape", "split"]


def concat(tensors: Sequence[LazyTensor], dim: int = 0) -> LazyTensor:
    """Return the tensors one after another along `dim`, as `torch.cat`."""
    first = tensors[0]
    axis = _axis(first, dim)
    for other in tensors:
        same = other.dtype == first.dtype and _without(other, axis) == _without(first, axis)
        if not same or len(other.shape) != len(first.shape):
            raise ConversionInputError(
                f"{first!r} and {other!r} cannot be joined along dimension {axis}: they must have "
                "one dtype and the same other dimensions"
            )
    return first if len(tensors) == 1 else _Concat(tuple(tensors), axis)


def split(tensor: LazyTensor, sizes: Sequence[int], dim: int = 0) -> list[LazyTensor]:
    """Return consecutive parts of the given sizes along `dim`, as `torch.split`."""
    axis = _axis(tensor, dim)
    if sum(sizes) != tensor.shape[axis]:
        raise ConversionInputError(
            f"{tensor!r} cannot be split into {list(sizes)!r} along dimension {axis}: the sizes "
            f"must add up to {tensor.shape[axis]}"
        )
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [narrow(tensor, axis, start, size) for start, size in zip(starts, sizes, strict=True)]


def narrow(tensor: LazyTensor, dim: int, start: int, length: int) -> LazyTensor:
    """Return `length` positions of `dim` from `start` on, as `torch.narrow`."""
    axis = _axis(tensor, dim)
    if not 0 <= start <= start + length <= tensor.shape[axis]:
        raise ConversionInputError(
            f"{tensor!r} has no positions {start} to {start + length} in dimension {axis}"
        )
    if (start, length) == (0, tensor.shape[axis]):
        return tensor
    return _RowRange(tensor, start, length) if axis == 0 else _Narrow(tensor, axis, start, length)


def reshape(tensor: LazyTensor, shape: Sequence[int]) -> LazyTensor:
    """Return the same elements, in the same order, with another shape; one size may be -1."""
    wanted = _shape_for(tensor, shape)
    if wanted == tensor.shape:
        return tensor
    inner = tensor.inner if isinstance(tensor, _Reshaped) else tensor
    return _Reshaped(inner, wanted)


def permute(tensor: LazyTensor, dims: Sequence[int]) -> LazyTensor:
    """Return the tensor with its dimensions in another order, as `torch.permute`.

    Unless the first one stays, the whole tensor is in memory while it is made.
    """
    order = tuple(_axis(tensor, dim) for dim in dims)
    if sorted(order) != list(range(len(tensor.shape))):
        raise ConversionInputError(f"{list(dims)!r} is no order of the dimensions of {tensor!r}")
    return tensor if list(order) == sorted(order) else _Permuted(tensor, order)


def _axis(tensor: LazyTensor, dim: int) -> int:
    axis = dim + len(tensor.shape) if dim < 0 else dim
    if not 0 <= axis < len(tensor.shape):
        raise ConversionInputError(f"{tensor!r} has no dimension {dim}")
    return axis


def _without(tensor: LazyTensor, axis: int) -> tuple[int, ...]:
    return (*tensor.shape[:axis], *tensor.shape[axis + 1 :])


def _shape_for(tensor: LazyTensor, shape: Sequence[int]) -> tuple[int, ...]:
    known = math.prod(size for size in shape if size != -1)
    wanted = tuple(tensor.elements // max(known, 1) if size == -1 else size for size in shape)
    if list(shape).count(-1) > 1 or math.prod(wanted) != tensor.elements:
        raise ConversionInputError(f"{tensor!r} cannot have the shape {list(shape)!r}")
    return wanted


class _Concat(LazyTensor):
    def __init__(self, parts: tuple[LazyTensor, ...], axis: int) -> None:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        super().__init__(shape, parts[0].dtype)
        self.parts = parts
        self.axis = axis
        self.is_whole = any(part.is_whole for part in parts)
        self.is_elementwise = axis == 0 and all(part.is_elementwise for part in parts)

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return self.parts

    @property
    def row_cost_bytes(self) -> int:
        costs = [part.row_cost_bytes for part in self.parts]
        return self.row_bytes + (max(costs) if self.axis == 0 else sum(costs))

    def flat(self) -> LazyTensor:
        if not self.is_elementwise:
            return super().flat()
        return _Concat(tuple(part.flat() for part in self.parts), 0)

    def rows(self, start: int, stop: int) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        if self.axis:
            return torch.cat([part.rows(start, stop) for part in self.parts], self.axis)
        pieces, offset = [], 0
        for part in self.parts:
            first, last = max(start - offset, 0), min(stop - offset, part.row_count)
            if first < last:
                pieces.append(part.rows(first, last))
            offset += part.row_count
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces or [self.parts[0].rows(0, 0)])


class _RowRange(LazyTensor):
    def __init__(self, inner: LazyTensor, start: int, length: int) -> None:
        super().__init__((length, *inner.shape[1:]), inner.dtype)
        self.inner = inner
        self.start = start
        self.is_whole = inner.is_whole
        self.is_elementwise = inner.is_elementwise

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.inner,)

    @property
    def row_cost_bytes(self) -> int:
        return self.inner.row_cost_bytes

    def flat(self) -> LazyTensor:
        if not self.is_elementwise or len(self.shape) == 1:
            return super().flat()
        width = self.row_elements
        return _RowRange(self.inner.flat(), self.start * width, self.elements)

    def rows(self, start: int, stop: int) -> Any:
        return self.inner.rows(self.start + start, self.start + stop)


class _Narrow(LazyTensor):
    def __init__(self, inner: LazyTensor, axis: int, start: int, length: int) -> None:
        super().__init__((*inner.shape[:axis], length, *inner.shape[axis + 1 :]), inner.dtype)
        self.inner = inner
        self.axis = axis
        self.start = start
        self.is_whole = inner.is_whole

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.inner,)

    def rows(self, start: int, stop: int) -> Any:
        made = self.inner.rows(start, stop)
        return made.narrow(self.axis, self.start, self.shape[self.axis]).contiguous()


class _Reshaped(LazyTensor):
    def __init__(self, inner: LazyTensor, shape: tuple[int, ...]) -> None:
        super().__init__(shape, inner.dtype)
        self.inner = inner
        self.is_whole = inner.is_whole
        self.is_elementwise = inner.is_elementwise
        self._flat = inner.flat()
        self._keeps_rows = bool(shape and inner.shape) and shape[0] == inner.shape[0]

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.inner,)

    @property
    def row_cost_bytes(self) -> int:
        """Of the elements in a row; it shares the memory of what it is made of."""
        if self._keeps_rows:
            return self.inner.row_cost_bytes
        rows = self.row_elements / max(self.inner.row_elements, 1)
        if self.is_elementwise:
            return max(math.ceil(rows * self.inner.row_cost_bytes), 1)
        return (math.ceil(rows) + 1) * self.inner.row_cost_bytes

    def flat(self) -> LazyTensor:
        return self._flat

    def rows(self, start: int, stop: int) -> Any:
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        if self._keeps_rows:
            return self.inner.rows(start, stop).reshape(shape)
        width = self.row_elements
        return self._flat.rows(start * width, stop * width).reshape(shape)


class _Permuted(LazyTensor):
    def __init__(self, inner: LazyTensor, order: tuple[int, ...]) -> None:
        super().__init__(tuple(inner.shape[axis] for axis in order), inner.dtype)
        self.inner = inner
        self.order = order
        self.is_whole = inner.is_whole or order[0] != 0

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.inner,)

    def rows(self, start: int, stop: int) -> Any:
        if self.order[0] == 0:
            return self.inner.rows(start, stop).permute(self.order).contiguous()
        return self.inner.tensor().permute(self.order)[start:stop].contiguous()
