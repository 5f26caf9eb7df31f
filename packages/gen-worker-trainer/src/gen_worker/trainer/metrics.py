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


def averaged(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of metrics, each part counted by its `weight`; `tokens` are added up."""
    if len(parts) == 1:
        return dict(parts[0])
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for part in parts:
        weight = part.get(WEIGHT, 1.0)
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + (value if name in _ADDED else value * weight)
            weights[name] = weights.get(name, 0.0) + weight
    return {
        name: value if name in _ADDED or not weights[name] else value / weights[name]
        for name, value in sums.items()
    }


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
