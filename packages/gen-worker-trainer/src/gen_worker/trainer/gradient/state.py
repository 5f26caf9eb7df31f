"""What a `GradientTrainer` trains, with all that a step changes."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.state.training_state import TrainingState, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.trainer.gradient.accumulating import Accumulation
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
        self.options: Any = options
        self.accumulated = 0
        self.loss: Any = 0.0
        """Of the micro-batches whose gradients wait, times their weights."""
        self.weight = 0.0
        self.accumulation: Accumulation | None = None
        self._evaluation = ExitStack()
        self.extra["gradient"] = {"skipped_steps": 0, "micro_batch_size": 0, "weight_unit": 0}

    @property
    def progress(self) -> dict[str, int]:
        """What the run has learned about itself; kept with every checkpoint."""
        kept: dict[str, int] = self.extra["gradient"]
        return kept

    @property
    def modules(self) -> dict[str, Any]:
        """All modules by name; a single one is called `model`."""
        return {name or "model": module for name, module in named(self.model).items()}

    def waiting(self, loss: Any, weight: float) -> None:
        """Count a batch whose gradients wait for the optimizer."""
        self.loss = self.loss + loss
        self.weight += weight
        self.accumulated = (self.accumulated or 0) + 1

    def drop_gradients(self) -> None:
        """Be as before the first batch of a step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss, self.weight = 0.0, 0.0
        self.accumulated = 0

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the averaged weights in place of the last ones within, if there are averages."""
        with ExitStack() as stack:
            if self.ema is not None:
                stack.enter_context(self.ema.applied())
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Have the model as its users will within: averaged, without dropout and gradients."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        parts = [one for module in self.modules.values() for one in module.modules()]
        trained = [one for one in parts if one.training]
        with self.averaged(), torch.no_grad():
            for one in trained:
                one.training = False
            try:
                yield
            finally:
                for one in trained:
                    one.training = True

    def enter_evaluation(self) -> None:
        """Begin what `evaluating` does; `leave_evaluation` ends it."""
        self._evaluation.enter_context(self.evaluating())

    def leave_evaluation(self) -> None:
        self._evaluation.close()
