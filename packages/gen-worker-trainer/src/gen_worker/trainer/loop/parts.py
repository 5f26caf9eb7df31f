"""What may go along with a run, and the points at which it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.trainer.loop.duties import Duty
    from gen_worker.trainer.loop.running import Run

__all__ = ["Part", "points"]


class Part:
    """Something that goes along with a run. Only those methods are called that a subclass has.

    All are called from the thread that trains. What they raise fails the run.
    """

    name = ""
    """Under which checkpoints keep its state; empty keeps none."""

    def begin(self, run: Run) -> None:
        """The state is restored, and the first step is next."""

    def before_step(self, run: Run) -> None:
        """A batch is there, and the run is not to stop."""

    def before_update(self, run: Run, results: Sequence[Any]) -> bool:
        """Tell whether the optimizer may step, where the runtime has it step."""
        return True

    def after_step(self, run: Run) -> None:
        """The step is done and not yet counted; `run.outcome` is what it produced."""

    def before_saving(self, run: Run) -> None:
        """A checkpoint is to be made."""

    def duties(self) -> Sequence[Duty]:
        """Return what is due now and then, after metrics are reported and before checkpoints."""
        return ()

    def report(self, run: Run) -> Mapping[str, float]:
        """Return metrics to report beside those of the step."""
        return {}

    def reported(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Metrics were reported."""

    def checkpointed(self, path: str, step: int) -> None:
        """A checkpoint is on disk."""

    def sampled(self, path: str, step: int) -> None:
        """A file of a sample is on disk."""

    def moved(self, run: Run) -> None:
        """Between two steps something went on, such as a batch of an evaluation."""

    def kept(self) -> Any:
        """Return what a checkpoint keeps of this: JSON values."""
        return None

    def restore(self, kept: Any) -> None:
        """Be as when `kept` returned this."""

    def end(self, run: Run, error: BaseException | None) -> None:
        """The run is over; called once for every part whose `begin` was."""


def points(parts: Sequence[Part], name: str) -> list[Callable[..., Any]]:
    """Return the methods of this name of those parts that have one of their own."""
    return [
        getattr(part, name)
        for part in parts
        if getattr(type(part), name) is not getattr(Part, name)
    ]
