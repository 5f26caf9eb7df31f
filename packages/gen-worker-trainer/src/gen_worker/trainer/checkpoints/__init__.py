"""Checkpoints on disk: whole or not there, looked at before they are used, kept while wanted."""

from __future__ import annotations

from gen_worker.trainer.checkpoints.background import Background
from gen_worker.trainer.checkpoints.draft import Draft
from gen_worker.trainer.checkpoints.retention import Keeping
from gen_worker.trainer.checkpoints.store import CheckpointStore
from gen_worker.trainer.checkpoints.values import Checkpoint, StoredFile

__all__ = ["Background", "Checkpoint", "CheckpointStore", "Draft", "Keeping", "StoredFile"]
