"""`transformers.Trainer` inside the runtime, or beside it with a callback that reports."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.adapters.pacing import PacedTrainer

if TYPE_CHECKING:
    from gen_worker.trainer.adapters.pacing import Pace, PacedState, Save
    from gen_worker.trainer.protocols import TrainingReporter
    from gen_worker.trainer.steps import StepContext

__all__ = ["HuggingFaceTrainer", "reporting_callback"]


def reporting_callback(reporter: TrainingReporter, *, request_id: str = "") -> Any:
    """Return a `TrainerCallback` that tells a reporter of steps, metrics and checkpoints.

    A run that is to stop saves, and ends after the step it is at.

    Example:
        reporter = LocalTrainingReporter("events.jsonl")
        Trainer(..., callbacks=[reporting_callback(reporter, request_id="run-7")]).train()

    Args:
        reporter: Told what happens, and asked after each step whether to stop.
        request_id: Of the run.
    """
    from transformers import TrainerCallback  # type: ignore[import-not-found,unused-ignore]

    class Reporting(TrainerCallback):  # type: ignore[misc,unused-ignore]  # transformers may be absent
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            reporter.started(request_id=request_id)

        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            for name, value in _numbers(more.get("logs")).items():
                reporter.metric(name=name, value=value, step=state.global_step)

        def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            path = Path(args.output_dir, f"checkpoint-{state.global_step}")
            reporter.checkpoint(path=str(path), step=state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if reporter.is_canceled():
                control.should_save = control.should_training_stop = True

        def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if reporter.is_canceled():
                reason = getattr(reporter, "cancel_reason", None) or "canceled"
                reporter.failed(step=state.global_step, error=reason)
            else:
                reporter.completed(step=state.global_step, final_checkpoint=None)

    return Reporting()


class HuggingFaceTrainer(PacedTrainer):
    """Runs a `transformers.Trainer`: its loop, data and checkpoints; our steps, events and resume.

    Checkpoints are written by transformers itself, optimizer and random state included, into the
    directory `engine` of ours.

    Example:
        class Tuner(HuggingFaceTrainer):
            def build(self, ctx, output_dir):
                model = AutoModelForCausalLM.from_pretrained(ctx.model_handles["base_model_dir"])
                arguments = TrainingArguments(output_dir=str(output_dir), report_to=[])
                return Trainer(model=model, args=arguments, train_dataset=load_rows())
    """

    def build(self, ctx: StepContext, output_dir: Path) -> Any:
        """Return a `transformers.Trainer`; to be written.

        Args:
            ctx: Of the job. Its `max_steps` takes the place of that of the arguments.
            output_dir: For `TrainingArguments`; it is gone once the run has ended.
        """
        raise NotImplementedError

    def run_engine(self, pace: Pace, state: PacedState, ctx: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="gen-worker-engine-") as scratch:
            trainer = self.build(ctx, Path(scratch))
            trainer.args.max_steps = ctx.job.max_steps
            trainer.args.save_strategy = "no"  # when to is the runtime's to say
            trainer.add_callback(_pacing_callback(pace))
            resumed = None if state.resume_from is None else str(state.resume_from)
            trainer.train(resume_from_checkpoint=resumed)


def _pacing_callback(pace: Pace) -> Any:
    from transformers import TrainerCallback

    class Pacing(TrainerCallback):  # type: ignore[misc,unused-ignore]  # transformers may be absent
        """Stops where the loss of a step is known and it can still be saved: while it is logged."""

        is_after_step = False
        order: Save | None = None

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.is_after_step = control.should_log = True

        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if self.is_after_step:
                self.is_after_step = False
                self.order = pace.report(_numbers(more.get("logs")))
                control.should_save = self.order is not None

        def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            written = Path(args.output_dir, f"checkpoint-{state.global_step}")
            while self.order is not None:
                shutil.copytree(written, self.order.directory, dirs_exist_ok=True)
                self.order = pace.report({})
            shutil.rmtree(written)

    return Pacing()


def _numbers(logs: Any) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in (logs or {}).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
