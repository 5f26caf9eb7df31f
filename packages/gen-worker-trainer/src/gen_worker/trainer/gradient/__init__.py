"""Training by gradients for authors who have a model and a loss."""

from __future__ import annotations

from gen_worker.trainer.gradient.loss import Loss
from gen_worker.trainer.gradient.options import GradientOptions, options_of
from gen_worker.trainer.gradient.state import GradientState
from gen_worker.trainer.gradient.trainer import GradientTrainer

__all__ = ["GradientOptions", "GradientState", "GradientTrainer", "Loss", "options_of"]
