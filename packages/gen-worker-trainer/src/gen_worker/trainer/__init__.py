"""Endpoints that train: their kind, and what a trainer class exchanges with its loop."""

from gen_worker.context import TrainingContext
from gen_worker.trainer.job import TrainingJobSpec
from gen_worker.trainer.steps import StepContext, StepControlHints, StepResult

__all__ = [
    "StepContext",
    "StepControlHints",
    "StepResult",
    "TrainingContext",
    "TrainingJobSpec",
]
