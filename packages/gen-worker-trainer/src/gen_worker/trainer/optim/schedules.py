"""Schedules of learning rates by name: a warm-up, then a curve to the end of the run."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SCHEDULES", "build_schedule"]


def _constant(done: float) -> float:
    return 1.0


def _linear(done: float, *, min_ratio: float = 0.0) -> float:
    return 1.0 - (1.0 - min_ratio) * done


def _cosine(done: float, *, min_ratio: float = 0.0) -> float:
    return min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + math.cos(math.pi * done))


def _cosine_with_restarts(done: float, *, min_ratio: float = 0.0, cycles: int = 3) -> float:
    return min_ratio if done >= 1 else _cosine(done * cycles % 1.0, min_ratio=min_ratio)


def _polynomial(done: float, *, min_ratio: float = 0.0, power: float = 2.0) -> float:
    return float(min_ratio + (1.0 - min_ratio) * (1.0 - done) ** power)


def _wsd(done: float, *, min_ratio: float = 0.0, decay_ratio: float = 0.2) -> float:
    """Stay, and fall linearly at the end (warmup-stable-decay, arXiv 2404.06395)."""
    return min(1.0, min_ratio + (1.0 - min_ratio) * (1.0 - done) / decay_ratio)


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "linear": _linear,
    "polynomial": _polynomial,
    "warmup": _constant,
    "wsd": _wsd,
}
"""Each gives the part of the learning rate for the part of the steps after the warm-up."""


def build_schedule(
    name: str,
    optimizer: Any,
    *,
    max_steps: int,
    warmup_steps: int = 0,
    **options: Any,
) -> Any:
    """Make a schedule whose `step()` is called after each step of the optimizer.

    Args:
        name: One of `SCHEDULES`.
        optimizer: Whose groups' rates are the highest there will be.
        max_steps: Of the run; from there on the rate stays.
        warmup_steps: The rate rises linearly, and is reached with the step after these.
        options: What else the schedule takes, such as `min_ratio`, the part of the rate at its end.

    Raises:
        ValueError: The name or an option is not known, or a number is impossible.
    """
    curve = SCHEDULES.get(name.strip().lower())
    if curve is None:
        raise ValueError(f"there is no schedule {name!r}: use one of {', '.join(SCHEDULES)}")
    known = [one for one in inspect.signature(curve).parameters if one != "done"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"the schedule {name!r} has no {', '.join(map(repr, unknown))}: it takes "
            f"{', '.join(['max_steps', 'warmup_steps', *known])}"
        )
    problems = [
        f"{key} must not be negative, it is {value!r}"
        for key, value in {"max_steps": max_steps, "warmup_steps": warmup_steps, **options}.items()
        if value < 0
    ]
    problems += [
        f"{key} must not be 0" for key in ("cycles", "decay_ratio") if options.get(key) == 0
    ]
    if problems:
        raise ValueError(f"the schedule {name!r} cannot be made: {'; '.join(problems)}")
    from torch.optim.lr_scheduler import (  # type: ignore[import-not-found,unused-ignore]
        LambdaLR,
    )

    def part(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return curve(min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps)), **options)

    return LambdaLR(optimizer, part)
