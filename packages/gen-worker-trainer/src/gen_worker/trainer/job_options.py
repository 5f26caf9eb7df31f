"""What a job spec may ask the runtime for besides training; nothing of it is on by default."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["EarlyStop", "KeepBest", "NanPolicy", "ProfileWindow"]

NanPolicy = Literal["fail", "skip", "warn"]
"""What a loss that is no finite number does: the run fails, the optimizer does not step, or it is
only said."""


class EarlyStop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a run ends because it does not get better."""

    metric: str = "eval/loss"
    """As it is reported."""
    mode: Literal["min", "max"] = "min"
    """Whether less of it is better, or more."""
    patience: int = 3
    """Reports in a row that are no better, after which the run ends."""
    min_delta: float = 0.0
    """By how much a report has to be better to count."""

    def __post_init__(self) -> None:
        """Refuse what would stop every run."""
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, it is {self.patience}")
        if not self.min_delta >= 0:
            raise ValueError(f"min_delta must not be negative, it is {self.min_delta}")


class KeepBest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which checkpoints stay because they are good."""

    metric: str = "eval/loss"
    """Of the checkpoint's step, as it is reported."""
    mode: Literal["min", "max"] = "min"
    """Whether less of it is better, or more."""
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse to keep none."""
        if self.count < 1:
            raise ValueError(f"count must be at least 1, it is {self.count}")


class ProfileWindow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which steps are profiled."""

    start_step: int = 2
    """The first one, counted from 1. The very first step of a run is seldom like the others."""
    steps: int = 1

    def __post_init__(self) -> None:
        """Refuse an empty window."""
        if self.start_step < 1 or self.steps < 1:
            raise ValueError(
                f"start_step and steps must be at least 1, they are {self.start_step} "
                f"and {self.steps}"
            )
