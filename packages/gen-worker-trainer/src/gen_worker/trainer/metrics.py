"""What metrics are called, and what numbers they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "LOSS",
    "RESUMED_FROM",
    "TOKENS",
    "WEIGHT",
    "Sums",
    "averaged",
    "loss_in",
    "metrics_of",
    "metrics_of_step",
    "nonfinite_word",
    "numbers",
    "require_metrics",
]

RESUMED_FROM = "trainer/resumed_from_step"
LOSS = "train/loss"
TOKENS = "tokens"
"""Of micro-batches these are added up, where all other metrics are averaged."""
WEIGHT = "weight"
"""Of a micro-batch among others; 1 where it says nothing."""

_NAMES = {
    "loss": LOSS,
    "train_loss": LOSS,
    "lr": "train/lr",
    "learning_rate": "train/lr",
    "train_lr": "train/lr",
}
_ADDED = (TOKENS, WEIGHT)
_RATE = "train/lr"
_RATE_KEYS = (_RATE, "learning_rate", "lr")


def metrics_of(result: Any, *, state: Any = None, optimizer: Any = None) -> dict[str, float]:
    """Return the metrics of a step that one call of `train_step` made; see `metrics_of_step`."""
    return metrics_of_step((result,), None, state=state, optimizer=optimizer)


def metrics_of_step(
    results: Sequence[Any], update: Any, *, state: Any = None, optimizer: Any = None
) -> dict[str, float]:
    """Return the metrics of a step, named as events name them.

    The learning rate is looked for in `debug`, in a state that is a mapping, and in the first group
    of an optimizer, where a step does not report it.

    Args:
        results: What `train_step` returned, for each micro-batch.
        update: What `optimizer_step` returned; None, metrics, or like a `StepResult`.
        state: The trainer's.
        optimizer: Of the context.

    Raises:
        TypeError: A result has no metrics.
        ValueError: A metric is no number.
    """
    metrics = averaged([numbers(require_metrics(one)) for one in results])
    if update is not None:
        metrics |= numbers(
            update if isinstance(update, Mapping) else require_metrics(update, "optimizer_step")
        )
    if _RATE not in metrics:
        rate = _rate_of((update, results[-1]), state, optimizer)
        if rate is not None:
            metrics[_RATE] = rate
    return metrics


def require_metrics(result: Any, hook: str = "train_step") -> Mapping[Any, Any]:
    """Return what a hook says of a step.

    Args:
        result: What it returned.
        hook: Its name.

    Raises:
        TypeError: It says nothing.
    """
    given = getattr(result, "metrics", None)
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{hook} returned {type(result).__name__}, and has to return something "
            "StepResult-like: an object whose `metrics` maps names to numbers"
        )
    return given


class Sums:
    """Metrics of several parts, each counted by its `weight`; `tokens` are added up."""

    def __init__(self) -> None:
        """Begin with no part."""
        self.weight = 0.0
        """Of all parts."""
        self._sums: dict[str, list[float]] = {}
        """Of each metric: the sum, and the sum of its weights."""

    def add(self, part: Mapping[str, float]) -> None:
        """Count one part more."""
        weight = part.get(WEIGHT, 1.0)
        self.weight += weight
        for name, value in part.items():
            self._add(name, value if name in _ADDED else value * weight, weight)

    def means(self) -> dict[str, float]:
        """Return the metrics of all parts."""
        return {
            name: value if name in _ADDED or not weight else value / weight
            for name, (value, weight) in self._sums.items()
        }

    def told(self) -> dict[str, list[str]]:
        """Return all of it, to the last bit, as JSON can hold it: it has no word for nan."""
        return {name: [one.hex() for one in pair] for name, pair in self._sums.items()}

    def hear(self, told: Mapping[str, Sequence[str]]) -> None:
        """Add what other sums have told."""
        for name, (value, weight) in told.items():
            self._add(name, float.fromhex(value), float.fromhex(weight))

    def _add(self, name: str, value: float, weight: float) -> None:
        pair = self._sums.setdefault(name, [0.0, 0.0])
        pair[0] += value
        pair[1] += weight


def averaged(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of metrics, each part counted by its `weight`; `tokens` are added up."""
    if len(parts) == 1:
        return dict(parts[0])
    sums = Sums()
    for part in parts:
        sums.add(part)
    return sums.means()


def loss_in(metrics: Mapping[Any, Any]) -> Any:
    """Return the loss of a training step as it is; None where it reports none."""
    for name, value in metrics.items():
        if _NAMES.get(str(name).strip().lower(), name) == LOSS:
            return value
    return None


def numbers(given: Mapping[Any, Any], names: Mapping[str, str] = _NAMES) -> dict[str, float]:
    """Return metrics as numbers, named as events name them.

    Args:
        given: What a hook says.
        names: Of what is called otherwise.

    Raises:
        ValueError: One is no number.
    """
    metrics: dict[str, float] = {}
    for name, value in given.items():
        text = str(name)
        try:
            metrics[names.get(text.strip().lower(), text)] = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metric {text!r} is no number: {error}") from error
    return metrics


def nonfinite_word(value: float) -> str:
    """Return `nan`, `inf` or `-inf`; empty for any other number."""
    if math.isfinite(value):
        return ""
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _rate_of(results: Sequence[Any], state: Any, optimizer: Any) -> float | None:
    places = [*(getattr(one, "debug", None) for one in results), state]
    given = [
        place[key]
        for place in places
        if isinstance(place, Mapping)
        for key in _RATE_KEYS
        if key in place
    ]
    if optimizer is None and isinstance(state, Mapping):
        optimizer = state.get("optimizer")
    groups = getattr(optimizer, "param_groups", None)
    if isinstance(groups, (list, tuple)) and groups and isinstance(groups[0], Mapping):
        given.append(groups[0].get("lr"))
    for value in given:
        try:
            return float(value)
        except (TypeError, ValueError):
            continue
    return None
