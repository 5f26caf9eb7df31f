"""What a quantized weight is stored as: several tensors, each made of rows of the source.

Legend: R rows and C columns of a weight.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lazy.tensor import SLAB_BYTES, LazyTensor, slabs
from gen_worker.conversion.writer.nonfinite import CountedTensor, NonFinite, count_nonfinite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.conversion.lazy.tensor import Checkpoint

__all__ = ["Encoded", "Once", "Scheme", "finite_rows", "largest"]

_NONE = NonFinite(0, 0)


class Scheme(ABC):
    """How one weight becomes parts, and how values come back from them."""

    @abstractmethod
    def misfit(self, tensor: LazyTensor) -> str:
        """Say why the scheme cannot take a tensor of this shape; empty when it can."""

    @abstractmethod
    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        """Return the parts by name."""

    @abstractmethod
    def decode(self, parts: Checkpoint, shape: Sequence[int]) -> LazyTensor:
        """Return the values that parts stand for, in float32.

        Args:
            parts: Those of `encode`, or what was read back from a file.
            shape: Of the weight.
        """


def finite_rows(tensor: LazyTensor, start: int, stop: int) -> tuple[Any, NonFinite]:
    """Return rows in float32, zero where they are no finite number, and how many those are.

    One NaN would make the scale of its row a NaN, and with it all of the row.
    """
    made = tensor.rows(start, stop)
    counts = count_nonfinite(made, tensor.dtype)
    values = made.float()
    if any(counts):
        values = values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return values, counts


def largest(tensor: LazyTensor) -> float:
    """Return the largest magnitude, from one pass over all slabs."""
    found = 0.0
    for start, stop in slabs(tensor):
        values, _ = finite_rows(tensor, start, stop)
        found = max(found, float(values.abs().max()))
    return found


class Encoded(CountedTensor):
    """A part each of whose rows is made of the same number of rows of the source."""

    def __init__(
        self,
        source: LazyTensor,
        make: Callable[[Any, int], Any],
        *,
        shape: Sequence[int],
        dtype: str,
        unit: int = 1,
        align: int = 1,
        counts: bool = False,
    ) -> None:
        """Say what is made of what.

        Args:
            source: Of the weight.
            make: Takes float32 rows of the source and the index of the first row to make, and
                returns rows.
            shape: Of the part.
            dtype: Of the part.
            unit: Rows of the source for one row; the last has fewer when they do not divide.
            align: So many rows can only be made together.
            counts: Whether this part tells of the source's numbers that are not finite.
        """
        super().__init__(shape, dtype)
        self.source = source
        self.make = make
        self.unit = unit
        self.align = align
        self.counts = counts
        self.is_whole = source.is_whole

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.source,)

    @property
    def row_cost_bytes(self) -> int:
        """Of the source, its values in float32, four intermediate ones and the result."""
        work = 20 * self.source.row_elements
        return self.row_bytes + self.unit * (self.source.row_cost_bytes + work)

    def rows(self, start: int, stop: int) -> Any:
        return self.counted_rows(start, stop)[0]

    def counted_rows(self, start: int, stop: int) -> tuple[Any, NonFinite]:
        first = start // self.align * self.align
        last = min(-(-stop // self.align) * self.align, self.row_count)
        count = self.source.row_count
        values, found = finite_rows(
            self.source, min(first * self.unit, count), min(last * self.unit, count)
        )
        made = self.make(values, first)[start - first : stop - first]
        return made.contiguous(), found if self.counts else _NONE


class Once(LazyTensor):
    """A small tensor that takes a pass over a large one: made at the first read, then kept."""

    def __init__(
        self, make: Callable[[], Any], *, shape: Sequence[int], dtype: str, of: LazyTensor
    ) -> None:
        super().__init__(shape, dtype)
        self.make = make
        self.of = of
        self._lock = threading.Lock()

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.of,)

    @property
    def row_cost_bytes(self) -> int:
        """Of the pass, however few rows are asked for."""
        return max(self.row_bytes, SLAB_BYTES // max(self.row_count, 1))

    def rows(self, start: int, stop: int) -> Any:
        with self._lock:  # one thread makes the pass, the others wait for it
            made = self._made
        return made[start:stop] if self.shape else made

    @cached_property
    def _made(self) -> Any:
        return self.make()
