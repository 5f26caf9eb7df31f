"""The step loop, and what may go along with it."""

from __future__ import annotations

from gen_worker.trainer.loop.parts import Part
from gen_worker.trainer.loop.running import LoopPhase, Run
from gen_worker.trainer.loop.training import TrainingLoop, run_training_loop

__all__ = ["LoopPhase", "Part", "Run", "TrainingLoop", "run_training_loop"]
