"""How far a run is, as far as its events tell."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LOSS", "RATE", "Progress", "Report", "sparkline"]

LOSS = "train/loss"
RATE = "train/lr"
_RESUMED_FROM = "trainer/resumed_from_step"
_BARS = "▁▂▃▄▅▆▇█"
_MOST_LOSSES = 240
_REPORTS_OF_A_RATE = 8


class Report(NamedTuple):
    """The metrics of one step."""

    step: int
    metrics: dict[str, float | None]
    """None is a number that JSON has no word for."""
    steps_per_s: float | None = None
    eta_s: float | None = None


class Progress:
    """Takes events; its attributes say how far the run is."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.start_step = 0
        self.step = 0
        self.metrics: dict[str, float | None] = {}
        """The last of each."""
        self.losses: deque[float] = deque(maxlen=_MOST_LOSSES)
        self.checkpoint: dict[str, Any] | None = None
        """Its event."""
        self.end: dict[str, Any] | None = None
        self._open: Report | None = None
        self._marks: deque[tuple[float, int]] = deque(maxlen=_REPORTS_OF_A_RATE)

    def take(self, event: Mapping[str, Any]) -> Report | None:
        """Take an event; return a step's metrics once the next thing has happened."""
        kind, step = event.get("event"), event.get("step")
        if kind == "metric" and event.get("name") != _RESUMED_FROM:
            return self._metric(event)
        ended = self.settle()
        if kind == "metric":
            self.start_step = self.step = int(step or 0)
        elif kind == "started":
            self._marks.append((event["timestamp_ms"] / 1000, self.step))
        elif kind == "checkpoint":
            self.checkpoint = dict(event)
        elif kind in ("completed", "failed", "canceled"):
            self.end = dict(event)
            self.step = max(self.step, int(step or 0))
        return ended

    def settle(self) -> Report | None:
        """Return the metrics that were taken last, because nothing follows for the moment."""
        ended, self._open = self._open, None
        if ended is None:
            return None
        return ended._replace(steps_per_s=self.steps_per_s, eta_s=self.eta_s)

    @property
    def steps_per_s(self) -> float | None:
        """Over the last reports; None until it is known."""
        if len(self._marks) < 2:
            return None
        (since_s, first), (until_s, last) = self._marks[0], self._marks[-1]
        return (last - first) / (until_s - since_s) if until_s > since_s else None

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step; None while that cannot be told."""
        rate = self.steps_per_s
        return max(self.max_steps - self.step, 0) / rate if rate else None

    def _metric(self, event: Mapping[str, Any]) -> Report | None:
        step, name, value = int(event["step"]), str(event["name"]), event.get("value")
        ended = self.settle() if self._open is not None and self._open.step != step else None
        if self._open is None:
            self._open = Report(step, {})
        if self._marks and step > self._marks[-1][1]:
            self._marks.append((event["timestamp_ms"] / 1000, step))
        self._open.metrics[name] = self.metrics[name] = value
        self.step = max(self.step, step)
        if name == LOSS and value is not None:
            self.losses.append(value)
        return ended


def sparkline(values: Sequence[float], width: int) -> str:
    """Return values as bars, the highest as the highest; more values than bars are averaged."""
    if not values or width < 1:
        return ""
    count = min(len(values), width)
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[start:stop]) / (stop - start) for start, stop in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return _BARS[0] * count
    most = len(_BARS) - 1
    return "".join(_BARS[round((mean - low) / (high - low) * most)] for mean in means)
