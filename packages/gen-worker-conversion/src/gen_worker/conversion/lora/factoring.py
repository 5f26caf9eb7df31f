"""Products of low rank found by singular values; one module's at a time is in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import computed
from gen_worker.conversion.lazy.dtypes import torch_dtype
from gen_worker.conversion.lora.adapter import LowRank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.conversion.lazy import LazyTensor

__all__ = ["Decomposed", "RankChoice", "Recent", "factored", "truncated"]

_KEPT = 2
"""How many modules' factors are remembered: writers ask for both sides one after the other."""

Decomposed = tuple[Any, Any, Any]
"""`U (out, rank)`, the largest singular values `(rank)`, and `Vh (rank, in)`, in float32."""


class RankChoice:
    """How many singular values stay: a number, or as many as hold a share of the energy."""

    def __init__(self, rank: int | None, energy: float | None) -> None:
        """Take one of both, or both: then the smaller rank counts.

        Args:
            rank: At least 1.
            energy: Share of the sum of squared singular values, above 0 and at most 1.

        Raises:
            ConversionInputError: Neither is given, or one is out of its range.
        """
        if rank is None and energy is None:
            raise ConversionInputError("no rank is given: give rank, or energy such as 0.9")
        if rank is not None and rank < 1:
            raise ConversionInputError(f"rank is {rank!r}: give at least 1")
        if energy is not None and not 0 < energy <= 1:
            raise ConversionInputError(f"energy {energy!r} is no share above 0 and at most 1")
        self.rank = rank
        self.energy = energy

    def of(self, largest: int, values: Callable[[], Any]) -> int:
        """Return the rank of one module.

        Args:
            largest: That the product can have.
            values: Gives the singular values, largest first; asked only for the energy.
        """
        wanted = largest if self.rank is None else min(self.rank, largest)
        if self.energy is None:
            return wanted
        squares = values().double().square()
        total = float(squares.sum())
        if total == 0:
            return 1
        held = squares.cumsum(0) < self.energy * total
        return min(wanted, int(held.sum()) + 1, largest)


class Recent:
    """Remembers the factors of the modules that were asked for last; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[str, Decomposed] = OrderedDict()

    def get(self, name: str, make: Callable[[], Decomposed]) -> Decomposed:
        with self._lock:  # who comes second waits instead of doing the same
            if name not in self._found:
                self._found[name] = make()
                while len(self._found) > _KEPT:
                    self._found.popitem(last=False)
            return self._found[name]


def truncated(left: Any, values: Any, right: Any, rank: int) -> Decomposed:
    """Return the part of the largest values, with memory of its own."""
    return left[:, :rank].clone(), values[:rank].clone(), right[:rank].clone()


def factored(
    name: str,
    rank: int,
    make: Callable[[], Decomposed],
    recent: Recent,
    *,
    down_shape: Sequence[int],
    rows: int,
    dtype: str,
    of: Sequence[LazyTensor],
    scale: float,
) -> LowRank:
    """Return a module whose sides are made when they are read.

    Each side gets the root of the singular values, so neither overflows in half precision.

    Args:
        name: Of the module, for `recent`.
        rank: Of the result.
        make: Decomposes the product; gives as many values.
        recent: Shared by the modules of one adapter.
        down_shape: Of the result without its rank, `(in)` or `(in, height, width)`.
        rows: Outputs.
        dtype: Of both sides.
        of: What the product is made of.
        scale: Of the result: `alpha / rank`.
    """

    def down(start: int, stop: int) -> Any:
        _, values, right = recent.get(name, make)
        side = right[start:stop] * values[start:stop].sqrt().unsqueeze(1)
        return side.to(torch_dtype(dtype)).reshape(stop - start, *down_shape).contiguous()

    def up(start: int, stop: int) -> Any:
        left, values, _ = recent.get(name, make)
        side = left[start:stop] * values.sqrt()
        ones = [1] * (len(down_shape) - 1)
        return side.to(torch_dtype(dtype)).reshape(stop - start, rank, *ones).contiguous()

    ones = [1] * (len(down_shape) - 1)
    return LowRank(
        computed(down, shape=(rank, *down_shape), dtype=dtype, of=of, is_whole=True),
        computed(up, shape=(rows, rank, *ones), dtype=dtype, of=of, is_whole=True),
        scale * rank,
    )
