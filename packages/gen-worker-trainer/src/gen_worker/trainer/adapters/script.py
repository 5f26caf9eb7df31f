"""Runs a training function that loops by itself, such as one written for Accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.trainer.adapters.pacing import PacedTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gen_worker.trainer.adapters.pacing import Pace, PacedState
    from gen_worker.trainer.steps import StepContext

__all__ = ["ScriptRun", "ScriptTrainer"]


class ScriptRun:
    """What a training function has of the runtime."""

    def __init__(self, pace: Pace, state: PacedState, ctx: StepContext) -> None:
        self.ctx = ctx
        self.start_step = state.steps
        """Steps that are done already."""
        self.resume_from = state.resume_from
        """Directory that `save` has written to; None at the beginning."""
        self._pace = pace
        self._state = state
        self._save: Callable[[Path], object] | None = None

    def on_save(self, save: Callable[[Path], object]) -> None:
        """Say how to write into a directory all that it takes to go on.

        Args:
            save: Such as `accelerator.save_state`; called between steps, from `main`'s own thread.
        """
        self._save = save

    def on_sample(self, generate: Callable[..., Any]) -> None:
        """Say how to make a sample: the `generate_sample` of a trainer's state."""
        self._state.generate_sample = generate

    def step(self, metrics: Mapping[str, float]) -> None:
        """Tell of a step that is done; return when the next one is to begin.

        That may be never: a run that is canceled ends here.
        """
        order = self._pace.report(metrics)
        while order is not None:
            if self._save is not None:
                self._save(order.directory)
            order = self._pace.report({})


class ScriptTrainer(PacedTrainer):
    """A trainer that runs `main`, step by step.

    Example:
        class Tuner(ScriptTrainer):
            def main(self, run: ScriptRun) -> None:
                accelerator = Accelerator()
                model, optimizer, batches = accelerator.prepare(...)
                run.on_save(accelerator.save_state)
                if run.resume_from:
                    accelerator.load_state(run.resume_from)
                for batch in accelerator.skip_first_batches(batches, run.start_step):
                    loss = model(batch).mean()
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                    run.step({"loss": loss.item()})
    """

    def main(self, run: ScriptRun) -> None:
        """Train; to be written."""
        raise NotImplementedError

    def run_engine(self, pace: Pace, state: PacedState, ctx: Any) -> None:
        self.main(ScriptRun(pace, state, ctx))
