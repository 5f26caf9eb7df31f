"""Checkpoints on disk, by the name that older trainers import them from."""

from __future__ import annotations

from gen_worker.trainer.checkpoints import Checkpoint, CheckpointStore, Keeping
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.resume import ResumePoint, finished_at, resume_point

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "Keeping",
    "ResumePoint",
    "finished_at",
    "resume_point",
]
