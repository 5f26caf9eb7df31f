"""What a training job is asked to do."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["TrainingJobSpec"]

_COUNTS = ("max_steps", "metric_every", "checkpoint_every", "sample_every")


class TrainingJobSpec(msgspec.Struct, frozen=True):
    """One job, as a trainer sees it in `ctx.job`."""

    request_id: str
    max_steps: int
    trainer_api_version: str = "v1"
    metric_every: int = 10
    """Steps between two reports; this and the next two: 0 is never."""
    checkpoint_every: int = 0
    sample_every: int = 0
    owner: str = ""
    release_ref: str = ""
    hyperparams: dict[str, Any] = {}

    def __post_init__(self) -> None:
        """Refuse what no loop could run; every mistake is named."""
        problems = [
            f"{name} must not be empty"
            for name in ("request_id", "trainer_api_version")
            if not getattr(self, name)
        ]
        problems += [
            f"{name} must not be negative, it is {getattr(self, name)!r}"
            for name in _COUNTS
            if getattr(self, name) < 0
        ]
        if problems:
            raise ValueError("; ".join(problems))
