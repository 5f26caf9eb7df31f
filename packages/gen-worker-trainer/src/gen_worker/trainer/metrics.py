"""What metrics are called, and what numbers they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["RESUMED_FROM", "metrics_of", "nonfinite_word"]

RESUMED_FROM = "trainer/resumed_from_step"

_NAMES = {
    "loss": "train/loss",
    "train_loss": "train/loss",
    "lr": "train/lr",
    "learning_rate": "train/lr",
    "train_lr": "train/lr",
}
_RATE = "train/lr"
_RATE_KEYS = (_RATE, "learning_rate", "lr")


def metrics_of(result: Any, *, state: Any = None, optimizer: Any = None) -> dict[str, float]:
    """Return the metrics of a step, named as events name them.

    The learning rate is looked for in `debug`, in a state that is a mapping, and in the first group
    of an optimizer, where a step does not report it.

    Args:
        result: What `train_step` returned.
        state: The trainer's.
        optimizer: Of the context.

    Raises:
        TypeError: The result has no metrics.
        ValueError: A metric is no number.
    """
    given = getattr(result, "metrics", None)
    if not isinstance(given, Mapping):
        raise TypeError(
            f"train_step returned {type(result).__name__}, and has to return something "
            "StepResult-like: an object whose `metrics` maps names to numbers"
        )
    metrics: dict[str, float] = {}
    for name, value in given.items():
        text = str(name)
        try:
            metrics[_NAMES.get(text.strip().lower(), text)] = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metric {text!r} is no number: {error}") from error
    if _RATE not in metrics:
        rate = _rate_of(result, state, optimizer)
        if rate is not None:
            metrics[_RATE] = rate
    return metrics


def nonfinite_word(value: float) -> str:
    """Return `nan`, `inf` or `-inf`; empty for any other number."""
    if math.isfinite(value):
        return ""
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _rate_of(result: Any, state: Any, optimizer: Any) -> float | None:
    places = [getattr(result, "debug", None), state]
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
