"""What a trainer receives at each hook, and what it answers after each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gen_worker.trainer.job import TrainingJobSpec

__all__ = ["StepContext", "StepControlHints", "StepResult"]


class StepContext(msgspec.Struct, frozen=True):
    """What every hook of a trainer class receives."""

    job: TrainingJobSpec
    model_handles: dict[str, Any] = {}
    """Local paths of the job's input models, by role."""
    dataset: Any = None
    """The source of batches; None without one."""
    optimizer: Any = None
    scheduler: Any = None
    device: str = "cuda:0"
    dtype: str = "bf16"
    is_canceled: Callable[[], bool] | None = None
    """Tells whether to stop; for trainers that loop by themselves."""
    hyperparams: Any = None
    """The job's as the trainer's `hyperparams_type`; None where it has none."""


class StepControlHints(msgspec.Struct, frozen=True):
    """What a step asks of the loop."""

    skip_cadence_emit: bool = False
    """Report no metrics for this step, even when they are due."""
    backoff_seconds: float | None = None
    """Wait this long before the next step."""
    stop: bool = False
    """End the run here, as completed, once what is due after this step is done."""


class StepResult(msgspec.Struct, frozen=True):
    """What one training step produced."""

    metrics: dict[str, float] = {}
    """Numbers by name; `loss` and `lr` are reported as `train/loss` and `train/lr`."""
    debug: dict[str, Any] = {}
    """Anything; kept out of the metrics."""
    control: StepControlHints | None = None
