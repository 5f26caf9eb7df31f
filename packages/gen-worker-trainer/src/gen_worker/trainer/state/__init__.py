"""All that a run is at one moment, as tensors and JSON: nothing of it is ever pickled."""

from __future__ import annotations

from gen_worker.trainer.state.rng import capture_rng, restore_rng
from gen_worker.trainer.state.training_state import TrainingState
from gen_worker.trainer.state.tree import flatten, unflatten

__all__ = ["TrainingState", "capture_rng", "flatten", "restore_rng", "unflatten"]
