"""Task vectors: what tunings have learnt is their difference to the base, and can be summed.

Ilharco et al., "Editing Models with Task Arithmetic", 2023. Differences may be thinned out: to what
is large, where they agree on the sign (Yadav et al., "TIES-Merging", 2023), or at random, rescaled
so that the expectation stays (Yu et al., "Language Models are Super Mario", 2024: DARE).
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gen_worker.conversion.lazy import LazyTensor, combine, slabs
from gen_worker.conversion.lazy.dtypes import torch_dtype
from gen_worker.conversion.merge.random_drop import drop_key, kept_elements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Sum", "size_at", "sum_of_task_vectors"]

_HALF = 16
"""Bits of half a float32."""


class Sum(NamedTuple):
    """How differences are summed."""

    keeps: Literal["all", "largest", "random"] = "all"
    density: float = 1.0
    """Share of the elements of each difference that is kept."""
    seed: int = 0
    """Of what is kept at random."""
    has_consensus: bool = False
    """Whether an element counts only where its sign is that of the sum over the models."""
    is_normalized: bool = False
    """Whether an element is divided by the weights of those that count there."""


def sum_of_task_vectors(
    base: LazyTensor, tuned: Sequence[tuple[float, LazyTensor]], how: Sum, name: str
) -> LazyTensor:
    """Return `base + sum of weight * (tuned - base)`, computed in float32, in the base's dtype.

    With `largest`, how large an element has to be takes two passes over each difference, slab by
    slab, at the first read; after that, and otherwise, rows are independent.

    Args:
        base: What all were tuned from.
        tuned: With their weights.
        how: See `Sum`.
        name: Of the tensor: what is kept at random differs from one to the next.
    """
    keys = [drop_key(how.seed, number, name) for number in range(len(tuned))]
    return _TaskVectors(base, tuple(tuned), how, keys)


class _TaskVectors(LazyTensor):
    def __init__(
        self,
        base: LazyTensor,
        tuned: tuple[tuple[float, LazyTensor], ...],
        how: Sum,
        keys: Sequence[int],
    ) -> None:
        super().__init__(base.shape, base.dtype)
        self.base = base
        self.tuned = tuned
        self.how = how
        self.keys = keys
        self.is_elementwise = all(tensor.is_elementwise for tensor in self.inputs)
        self.is_whole = any(tensor.is_whole for tensor in self.inputs)
        self._lock = threading.Lock()

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.base, *(tensor for _, tensor in self.tuned))

    @property
    def row_cost_bytes(self) -> int:
        """Of a difference each, sums and masks beside what is read."""
        return super().row_cost_bytes + (32 + 4 * len(self.tuned)) * self.row_elements

    def flat(self) -> LazyTensor:
        if len(self.shape) == 1 or not self.is_elementwise:
            return super().flat()
        tuned = tuple((weight, tensor.flat()) for weight, tensor in self.tuned)
        return _TaskVectors(self.base.flat(), tuned, self.how, self.keys)

    def rows(self, start: int, stop: int) -> Any:
        base = self.base.rows(start, stop).float()
        changes = self._changes(base, start, stop)
        if self.how.has_consensus:
            sign = sum(changes[1:], changes[0].clone()).sign_()
            for change in changes:
                change.masked_fill_(change.sign() != sign, 0.0)
        total = sum(changes[1:], changes[0].clone())
        if self.how.is_normalized:
            total = self._normalized(changes, total)
        return base.add_(total).to(torch_dtype(self.dtype))

    def _changes(self, base: Any, start: int, stop: int) -> list[Any]:
        """Return the weighted differences, without what is not kept."""
        changes = []
        for number, (weight, tensor) in enumerate(self.tuned):
            change = tensor.rows(start, stop).float().sub_(base)
            if self.how.keeps == "largest":
                with self._lock:  # one thread measures, the others wait for it
                    threshold = self._thresholds[number]
                change.masked_fill_(change.abs() < threshold, 0.0)
            elif self.how.keeps == "random" and self.how.density < 1:
                width = self.row_elements
                kept = kept_elements(
                    self.keys[number], start * width, stop * width, self.how.density
                )
                change.mul_(kept.reshape(change.shape)).div_(self.how.density)
            changes.append(change.mul_(weight))
        return changes

    def _normalized(self, changes: Sequence[Any], total: Any) -> Any:
        """Divide by the weights; with a consensus, of the elements that agree."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        weights = torch.zeros_like(total)
        for (weight, _), change in zip(self.tuned, changes, strict=True):
            counts = change != 0 if self.how.has_consensus else torch.ones_like(change)
            weights += counts * abs(weight)
        return torch.where(weights > 0, total / weights.clamp(min=1e-30), 0.0)

    @cached_property
    def _thresholds(self) -> list[float]:
        """Return the smallest size that is kept of each difference."""
        dropped = round((1.0 - self.how.density) * self.elements)
        if dropped <= 0:
            return [0.0] * len(self.tuned)
        at = min(dropped, self.elements - 1)
        return [size_at(self.base, tensor, at) for _, tensor in self.tuned]


def size_at(base: LazyTensor, tensor: LazyTensor, rank: int) -> float:
    """Return the size of the element of a difference that so many are smaller than.

    Two passes, slab by slab: the bits of floats that are not negative are ordered as they are, so
    the upper half of the wanted one's is found first, then the lower one among those that share it.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    upper, before = _counted(base, tensor, rank, lambda bits: bits >> _HALF)
    lower, _ = _counted(
        base, tensor, rank - before, lambda bits: bits[bits >> _HALF == upper] & ((1 << _HALF) - 1)
    )
    bits = torch.tensor([(upper << _HALF) | lower], dtype=torch.int32)
    return float(bits.view(torch.float32)[0])


def _counted(
    base: LazyTensor, tensor: LazyTensor, rank: int, part: Callable[[Any], Any]
) -> tuple[int, int]:
    """Return the part that the element of a rank has, and how many elements have a smaller one."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    counts: Any = torch.zeros(1 << _HALF, dtype=torch.int64)
    pair = combine([(1.0, base), (1.0, tensor)], "F32")  # slabs that hold both
    pair, base, tensor = pair.flat(), base.flat(), tensor.flat()
    for start, stop in slabs(pair):
        change = tensor.rows(start, stop).float().sub_(base.rows(start, stop).float())
        bits = part(change.abs_().reshape(-1).view(torch.int32))
        counts += torch.bincount(bits, minlength=1 << _HALF)
    sums = counts.cumsum(0)
    found = int((sums <= rank).sum())
    return found, int(sums[found]) - int(counts[found])
