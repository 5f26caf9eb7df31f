"""Optimizers and schedules of learning rates, by name."""

from __future__ import annotations

from gen_worker.trainer.optim.groups import groups_of
from gen_worker.trainer.optim.optimizers import OPTIMIZERS, build_optimizer
from gen_worker.trainer.optim.schedules import SCHEDULES, build_schedule

__all__ = ["OPTIMIZERS", "SCHEDULES", "build_optimizer", "build_schedule", "groups_of"]
