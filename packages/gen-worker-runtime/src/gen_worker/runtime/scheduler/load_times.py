"""How long models take to load from where they are, as it was seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.scheduler.decisions import ModelNeed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gen_worker.runtime.scheduler.decisions import Tier

__all__ = ["LearnedLoad", "LoadTimes"]

_TIERS: tuple[Tier, ...] = ("ram", "disk", "cold")
_WEIGHT = 0.3
"""Of the latest load."""
_RATES = {"ram": 8e9, "disk": 1e9, "cold": 1e8}
"""Bytes per second before any was seen: PCIe 4, an NVMe disk with conversion, 1 Gbit/s."""
_UNKNOWN_S = {"ram": 1.0, "disk": 10.0, "cold": 60.0}
"""For a model of unknown size."""
_MAX_REFS = 10_000
_LONGEST_S = 86_400.0
_STEP_S = 0.001
"""By which a colder tier is slower at least: of places that are as quick the warmer is taken."""
_SHORTEST_S = 1e-6
"""What is over sooner says nothing of how fast a tier is."""


class LearnedLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned of one model, to be kept."""

    ref: str
    seconds: dict[str, float]
    """By tier."""


class LoadTimes:
    """Learns how long models take to load, by ref and tier, and how fast each tier is."""

    def __init__(self, learned: Iterable[LearnedLoad] = ()) -> None:
        self._seconds: dict[str, dict[str, float]] = {}
        self._rates = dict(_RATES)
        for row in learned:
            sound = {
                tier: seconds
                for tier, seconds in row.seconds.items()
                if tier in _RATES and 0 <= seconds <= _LONGEST_S
            }
            self._seconds[row.ref] = sound

    def learned(self) -> list[LearnedLoad]:
        """Return what to keep."""
        return [LearnedLoad(ref=ref, seconds=dict(one)) for ref, one in self._seconds.items()]

    def observe(self, ref: str, tier: Tier, seconds: float, size_bytes: int = 0) -> None:
        """Learn from one load; what cannot be a time is left out.

        Args:
            ref: Of the model.
            tier: Where it was.
            seconds: It took.
            size_bytes: Of the model; 0 when it is not known.
        """
        if tier not in _RATES or not 0 <= seconds <= _LONGEST_S:
            return
        known = self._seconds.pop(ref, {})
        known[tier] = _mean(known.get(tier), seconds)
        self._seconds[ref] = known
        if len(self._seconds) > _MAX_REFS:
            del self._seconds[next(iter(self._seconds))]
        if size_bytes > 0 and seconds >= _SHORTEST_S:
            old = self._rates[tier]
            self._rates[tier] = math.exp(_mean(math.log(old), math.log(size_bytes / seconds)))

    def need(self, ref: str, size_bytes: int = 0, *, disabled: str = "") -> ModelNeed:
        """Return what a request needs of a model. From a colder tier it always takes longer.

        What was never seen of a tier is not thought to take longer than what was seen of a colder.
        """
        seen = self._seconds.get(ref, {})
        times: list[float] = []
        for number, tier in enumerate(_TIERS):
            known = size_bytes > 0
            guess = size_bytes / self._rates[tier] if known else _UNKNOWN_S[tier]
            of_colder = [seen[colder] for colder in _TIERS[number + 1 :] if colder in seen]
            seconds = seen.get(tier, min([guess, *of_colder]))
            times.append(max(seconds, times[-1] + _STEP_S) if times else seconds)
        return ModelNeed(ref, size_bytes, *_three(times), disabled)


def _mean(before: float | None, seconds: float) -> float:
    return seconds if before is None else before + _WEIGHT * (seconds - before)


def _three(times: Sequence[float]) -> tuple[float, float, float]:
    ram_s, disk_s, cold_s = times
    return ram_s, disk_s, cold_s
