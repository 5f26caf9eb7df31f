"""Which checkpoints stay: the last ones, and the best by a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.trainer.checkpoints.values import Checkpoint

__all__ = ["Keeping", "superfluous"]


class Keeping(msgspec.Struct, frozen=True, kw_only=True):
    """How many checkpoints stay on disk besides the final one."""

    last: int = 0
    """The latest so many; 0 keeps all."""
    every: int = 0
    """Besides, those at a multiple of so many steps; 0 keeps none for that."""
    best: int = 0
    """Besides, so many of the best."""
    metric: str = ""
    """By which they are judged, such as `eval/loss`."""
    mode: Literal["min", "max"] = "min"
    """Whether less of the metric is better, or more."""

    def __post_init__(self) -> None:
        """Refuse what keeps nothing, and a best without a measure."""
        for name in ("last", "every", "best"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")
        if self.best and not self.metric:
            raise ValueError("say by which metric the best checkpoints are found")


def superfluous(checkpoints: Sequence[Checkpoint], keeping: Keeping) -> list[Checkpoint]:
    """Return those that need not stay, the oldest first. Final ones always do.

    Args:
        checkpoints: In any order.
        keeping: What stays.
    """
    periodic = sorted((one for one in checkpoints if not one.final), key=lambda one: one.step)
    if not keeping.last:
        return []
    kept = {one.step for one in periodic[-keeping.last :]}
    if keeping.every:
        kept.update(one.step for one in periodic if one.step % keeping.every == 0)
    if keeping.best:
        sign = 1.0 if keeping.mode == "min" else -1.0
        judged = [one for one in periodic if keeping.metric in one.metrics]
        # Of two that are as good the later one.
        judged.sort(key=lambda one: (sign * one.metrics[keeping.metric], -one.step))
        kept.update(one.step for one in judged[: keeping.best])
    return [one for one in periodic if one.step not in kept]
