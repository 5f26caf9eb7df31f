"""TIES: what several tunings have learnt, trimmed to what is large, where they agree on the sign.

Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", 2023.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lazy import LazyTensor
from gen_worker.conversion.lazy.dtypes import torch_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ties"]


def ties(base: LazyTensor, tuned: Sequence[tuple[float, LazyTensor]], density: float) -> LazyTensor:
    """Return the base and, of the differences to it, the weighted mean of those that agree.

    How large a difference has to be takes one difference as a whole in memory, at the first read;
    after that rows are independent.

    Args:
        base: What all were tuned from.
        tuned: With their weights.
        density: Share of the elements of each difference that is kept, the largest ones.
    """
    return _Ties(base, tuple(tuned), density)


class _Ties(LazyTensor):
    def __init__(
        self, base: LazyTensor, tuned: tuple[tuple[float, LazyTensor], ...], density: float
    ) -> None:
        super().__init__(base.shape, base.dtype)
        self.base = base
        self.tuned = tuned
        self.density = density
        self.is_whole = any(tensor.is_whole for tensor in self.inputs)
        self._lock = threading.Lock()

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.base, *(tensor for _, tensor in self.tuned))

    @property
    def row_cost_bytes(self) -> int:
        """Of a difference, two sums and a mask beside what is read."""
        return super().row_cost_bytes + 16 * self.row_elements

    def rows(self, start: int, stop: int) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        with self._lock:  # one thread measures, the others wait for it
            thresholds = self._thresholds
        base = self.base.rows(start, stop).float()
        changes = [
            weight * _trimmed(tensor.rows(start, stop).float() - base, threshold)
            for (weight, tensor), threshold in zip(self.tuned, thresholds, strict=True)
        ]
        sign = torch.sign(sum(changes))
        total, weights = torch.zeros_like(base), torch.zeros_like(base)
        for (weight, _), change in zip(self.tuned, changes, strict=True):
            agrees = (torch.sign(change) == sign) & (change != 0)
            total += torch.where(agrees, change, 0.0)
            weights += torch.where(agrees, abs(weight), 0.0)
        made = base + torch.where(weights > 0, total / weights.clamp(min=1e-30), 0.0)
        return made.to(torch_dtype(self.dtype))

    @cached_property
    def _thresholds(self) -> list[float]:
        """Return the smallest size that is kept of each difference."""
        dropped = round((1.0 - self.density) * self.elements)
        if dropped <= 0:
            return [0.0] * len(self.tuned)
        found = []
        for _, tensor in self.tuned:
            sizes = (tensor.tensor().float() - self.base.tensor().float()).abs_().reshape(-1)
            at = min(dropped, self.elements - 1)
            found.append(float(sizes.kthvalue(at + 1).values))
        return found


def _trimmed(change: Any, threshold: float) -> Any:
    return change.masked_fill_(change.abs() < threshold, 0.0)
