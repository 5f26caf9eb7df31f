"""What a `GradientTrainer` trains, with all that a step changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.trainer.gradient.sums import Sums
from gen_worker.trainer.state.training_state import TrainingState, named

if TYPE_CHECKING:
    from gen_worker.trainer.gradient.options import GradientOptions

__all__ = ["GradientState"]


class GradientState(TrainingState):
    """A `TrainingState` with the options of its trainer; attributes of your own may be added."""

    def __init__(self, model: Any, optimizer: Any, *, options: GradientOptions, **parts: Any):
        """Name the parts.

        Args:
            model: A module, or modules by name.
            optimizer: Of what in them requires gradients.
            options: The hyperparameters.
            parts: As those of `TrainingState`.
        """
        super().__init__(model, optimizer, trainable_only=options.trainable_only, **parts)
        self.options = options
        self.accumulated = 0
        self.sums = Sums()
        self.extra["gradient"] = {"skipped_steps": 0, "micro_batch_size": 0}

    @property
    def progress(self) -> dict[str, int]:
        """What the run has learned about itself; kept with every checkpoint."""
        kept: dict[str, int] = self.extra["gradient"]
        return kept

    @property
    def modules(self) -> dict[str, Any]:
        """All modules by name; a single one is called `model`."""
        return {name or "model": module for name, module in named(self.model).items()}
