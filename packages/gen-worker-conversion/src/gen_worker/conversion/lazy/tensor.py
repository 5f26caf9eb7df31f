"""What a tensor is before anything of it is read: a recipe that gives any rows of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.lazy.dtypes import size_bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["SLAB_BYTES", "Checkpoint", "Extent", "FlatRows", "LazyTensor", "slabs"]

SLAB_BYTES = 8 << 20
"""What making one slab may hold in memory: inputs and result of a cast from fp32 to bf16."""


class Extent(NamedTuple):
    """Bytes of a file that a tensor is made of."""

    path: str
    start: int
    """Offset in the file."""
    end: int


class LazyTensor(ABC):
    """An immutable recipe of one tensor; every call of `rows` does its work anew, on the CPU.

    `rows` is called from several threads at once. It never reads more than its rows need, except
    where `is_whole` says so.
    """

    is_whole = False
    """Whether `rows` works on the whole tensor, however few are asked for."""
    is_elementwise = False
    """Whether `flat()` can be cut anywhere at no cost."""

    def __init__(self, shape: Sequence[int], dtype: str) -> None:
        """Set what every recipe tells before any work.

        Args:
            shape: As torch has it; of `F4` and `F6` as the file has it.
            dtype: Safetensors code, such as `BF16`.
        """
        self.shape = tuple(shape)
        self.dtype = dtype

    @abstractmethod
    def rows(self, start: int, stop: int) -> Any:
        """Return rows of the first dimension as a contiguous torch tensor of `dtype`; blocks.

        A tensor without dimensions is one row, and comes without dimensions.

        Raises:
            DamagedFileError: A file changed since its header was read.
            ArtifactTransferError: It cannot be read.
        """

    @property
    @abstractmethod
    def inputs(self) -> Sequence[LazyTensor]:
        """The recipes this one works on; empty for a tensor of a file."""

    @property
    def sources(self) -> tuple[Extent, ...]:
        """Everything that a read of the whole tensor reads, for plans and fingerprints."""
        return tuple(extent for tensor in self.inputs for extent in tensor.sources)

    @property
    def row_cost_bytes(self) -> int:
        """What making one row holds in memory at most, the row itself included."""
        return self.row_bytes + sum(tensor.row_cost_bytes for tensor in self.inputs)

    def flat(self) -> LazyTensor:
        """Return the same elements in one dimension."""
        return self if len(self.shape) == 1 else FlatRows(self)

    @property
    def row_count(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def row_elements(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        return size_bytes_of(self.dtype, self.row_elements)

    @property
    def size_bytes(self) -> int:
        """Of the tensor itself, as a file holds it."""
        return size_bytes_of(self.dtype, self.elements)

    def tensor(self) -> Any:
        """Return the whole tensor."""
        return self.rows(0, self.row_count)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.dtype} {list(self.shape)}>"


Checkpoint = Mapping[str, LazyTensor]
"""The weights of one component by name, in an order that means something to its reader."""


class FlatRows(LazyTensor):
    """Any tensor as one dimension; a cut inside of a row makes the row twice."""

    def __init__(self, inner: LazyTensor) -> None:
        super().__init__((inner.elements,), inner.dtype)
        self.inner = inner
        self.is_whole = inner.is_whole

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.inner,)

    @property
    def row_cost_bytes(self) -> int:
        """Of one element in a long range of them."""
        return -(-self.inner.row_cost_bytes // max(self.inner.row_elements, 1))

    def rows(self, start: int, stop: int) -> Any:
        width = max(self.inner.row_elements, 1)
        first, last = start // width, -(-stop // width)
        made = self.inner.rows(first, last).reshape(-1)
        return made[start - first * width : stop - first * width]


def slabs(tensor: LazyTensor, slab_bytes: int = SLAB_BYTES) -> Iterator[tuple[int, int]]:
    """Yield the rows, from and to, that one piece of work makes, in order."""
    if tensor.size_bytes == 0:
        return
    count = tensor.row_count
    step = count if tensor.is_whole else max(slab_bytes // max(tensor.row_cost_bytes, 1), 1)
    for start in range(0, count, step):
        yield start, min(start + step, count)
