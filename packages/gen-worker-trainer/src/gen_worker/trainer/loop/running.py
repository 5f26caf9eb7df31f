"""What is true of a run at this moment."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gen_worker.trainer.errors import TrainingCanceled
from gen_worker.trainer.metrics import metrics_of_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.trainer.distributed.world import World
    from gen_worker.trainer.loop.reporting import Reporting
    from gen_worker.trainer.steps import StepContext

__all__ = ["LoopPhase", "Outcome", "Run"]

LoopPhase = Literal["model-load", "input", "train-step", "upload"]
"""What a failure is put down to."""


class Outcome(NamedTuple):
    """What one step produced."""

    results: Sequence[Any]
    """Of `train_step`, one for each micro-batch."""
    update: Any = None
    """Of `optimizer_step`."""
    samples: int = 0

    @property
    def control(self) -> Any:
        """What the step asks of the loop; None when it asks nothing."""
        control = getattr(self.update, "control", None)
        return getattr(self.results[-1], "control", None) if control is None else control


class Run:
    """One run: parts read it, and may ask it to stop."""

    def __init__(
        self, *, ctx: StepContext, trainer: Any, world: World, reporting: Reporting, step: int
    ) -> None:
        """Begin.

        Args:
            ctx: What every hook receives.
            trainer: Has the hooks.
            world: The processes that train together.
            reporting: Tells of metrics, checkpoints and samples.
            step: Completed steps.
        """
        self.ctx = ctx
        self.trainer = trainer
        self.world = world
        self.reporting = reporting
        self.state: Any = None
        self.phase: LoopPhase = "model-load"
        self.step = step
        """Completed steps."""
        self.attempted = step
        self.samples = 0
        """Of this attempt, in all."""
        self.waited_s = 0.0
        """For data, in all."""
        self.busy_s = 0.0
        """In steps, in all."""
        self.why_stop = ""
        """Why no further step is to be done; empty while there is no reason."""
        self.owed: list[str] = []
        """Duties of the step that were put off, since the run is to stop."""
        self.to_come: list[str] = []
        """Duties of the step that are next; a run that is killed now has not done them."""
        self.is_taking_time = False
        """Whether it is at something that takes as long as it takes; see `taking_time`."""
        self._outcome: Outcome | None = None
        self._metrics: dict[str, float] | None = {}

    @property
    def outcome(self) -> Outcome | None:
        """Of the last step; None before the first of this attempt."""
        return self._outcome

    @outcome.setter
    def outcome(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._metrics = None

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last step. They are read when they are asked for: that may wait for a GPU."""
        if self._metrics is None:
            assert self._outcome is not None, "without a step they are empty"
            self._metrics = metrics_of_step(
                self._outcome.results,
                self._outcome.update,
                state=self.state,
                optimizer=self.ctx.optimizer,
            )
        return self._metrics

    @contextmanager
    def taking_time(self) -> Iterator[None]:
        """Do what may be much longer than a step and is no stall for that, such as a sample."""
        before, self.is_taking_time = self.is_taking_time, True
        try:
            yield
        finally:
            self.reporting.moved(self)
            self.is_taking_time = before

    def is_canceled(self) -> bool:
        """Tell whether any process was told to stop; collective."""
        return self.world.any(self.reporting.reporter.is_canceled())

    def canceled(self) -> TrainingCanceled:
        """Return the error that such a run ends with."""
        reason = getattr(self.reporting.reporter, "cancel_reason", None)
        return TrainingCanceled(reason or "canceled")

    def stop(self, why: str) -> None:
        """Have the run end as completed, once what is due after this step is done."""
        self.why_stop = self.why_stop or why
