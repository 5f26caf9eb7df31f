"""The step loop: which hook is called when, and what is reported then.

It knows nothing of environment, paths or networks: all of that is behind its reporter, its writer
and its uploader.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from gen_worker.trainer.calling import accepted
from gen_worker.trainer.categories import category_of, told
from gen_worker.trainer.errors import ArtifactUploadError, TrainingCanceled
from gen_worker.trainer.metrics import metrics_of
from gen_worker.trainer.state.moment import go_on_at, moment_of, place_in
from gen_worker.trainer.state.restoring import restore_training_state
from gen_worker.trainer.state.rng import restore_rng, untouched_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gen_worker.trainer.job import TrainingJobSpec
    from gen_worker.trainer.protocols import (
        ArtifactUploader,
        ArtifactWriter,
        TrainingReporter,
    )
    from gen_worker.trainer.steps import StepContext

__all__ = ["LoopPhase", "TrainingLoop", "run_training_loop"]

LoopPhase = Literal["model-load", "input", "train-step", "upload"]
"""What a failure is put down to."""

_LOOK_S = 0.05
_log = logging.getLogger("gen_worker.trainer")


class TrainingLoop:
    """One run. `phase`, `completed` and `attempted` say how far it came, also once it failed."""

    def __init__(
        self,
        *,
        job: TrainingJobSpec,
        ctx: StepContext,
        trainer: Any,
        batches: Any,
        reporter: TrainingReporter,
        artifact_writer: ArtifactWriter,
        uploader: ArtifactUploader | None = None,
        start_step: int = 0,
        resume_state_payload: dict[str, Any] | None = None,
        resume_checkpoint_path: str | None = None,
        resume_runtime: Mapping[str, Any] | None = None,
        finishing: Callable[[str | None], object] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Prepare; nothing is called yet.

        Args:
            job: What to do.
            ctx: What every hook receives.
            trainer: Has the hooks.
            batches: Has `iter_batches()`, or is iterable.
            reporter: Told how it goes.
            artifact_writer: Keeps checkpoints and samples.
            uploader: Sends them; None keeps them here.
            start_step: Steps that are done already.
            resume_state_payload: For `load_state_dict`; None begins anew.
            resume_checkpoint_path: Directory for `load_checkpoint`, and of the `TrainingState`.
            resume_runtime: What the checkpoint's `runtime` has: random states, and the place in
                the data, if the data are to be gone on with there.
            finishing: Called with the path of the final checkpoint before the run is reported as
                completed; what it raises fails the run.
            sleep: Seconds.
        """
        self.job = job
        self.phase: LoopPhase = "model-load"
        self.completed = start_step
        self.attempted = start_step
        self.state: Any = None
        self._ctx = ctx
        self._trainer = trainer
        self._batches = batches
        self._reporter = reporter
        self._writer = artifact_writer
        self._uploader = uploader
        self._payload = resume_state_payload
        self._checkpoint_dir = resume_checkpoint_path
        self._runtime = resume_runtime or {}
        self._finishing = finishing
        self._sleep = sleep
        self._saved_at = start_step
        self._place: Any = self._runtime.get("cursor")
        self._metrics: dict[str, float] = {}

    def run(self) -> int:
        """Train, and return the completed steps.

        Raises:
            TrainingCanceled: The reporter said so; a checkpoint of the last completed step is kept.
            Exception: Whatever a hook, the writer or the uploader raised, once it is reported.
        """
        try:
            return self._run()
        except BaseException as error:
            step = min(max(self.completed, self.attempted), self.job.max_steps)
            self._tell_of_last(error)
            with suppress(Exception):  # the run's own error is what matters
                self._reporter.failed(step=step, error=self._text_of(error))
            raise

    def _run(self) -> int:
        self._begin()
        self.phase = "train-step"
        go_on_at(self._runtime, self._batches)
        source = self._source()
        if "rng" in self._runtime:  # the last of all: nothing is drawn before the first step
            restore_rng(self._runtime["rng"])
        try:
            while self.completed < self.job.max_steps and self._step(source):
                pass
        except TrainingCanceled:
            self._keep_last()
            raise
        finally:
            close = getattr(source, "close", None)
            if callable(close):
                close()
        self._end()
        return min(self.completed, self.job.max_steps)

    def _begin(self) -> None:
        trainer, ctx = self._trainer, self._ctx
        trainer.setup(ctx)
        self.state = trainer.configure(ctx)
        if self._payload is not None:
            trainer.load_state_dict(self.state, self._payload, ctx)
            load = getattr(trainer, "load_checkpoint", None)
            if callable(load):
                load(
                    state=self.state,
                    checkpoint_dir=self._checkpoint_dir,
                    payload=self._payload,
                    ctx=ctx,
                )
            if self._checkpoint_dir is not None:
                restore_training_state(self.state, self._checkpoint_dir)
        self._reporter.started(request_id=self.job.request_id)

    def _source(self) -> Iterator[Any]:
        batches = self._batches
        iterate = getattr(batches, "iter_batches", None)
        if callable(iterate):
            return iter(iterate())
        if isinstance(batches, Iterable):
            return iter(batches)
        raise TypeError(
            f"batches are {type(batches).__name__}, and have to be iterable or have iter_batches()"
        )

    # -- one step ----------------------------------------------------------------------------------

    def _step(self, source: Iterator[Any]) -> bool:
        """Do one step; False when there are no more batches."""
        self._tell_of_checkpoints(wait=False)
        self.phase = "input"
        try:
            raw = next(source)
        except StopIteration:
            return False
        self._raise_if_canceled()
        self.attempted = self.completed + 1
        prepared = self._trainer.prepare_batch(raw, self.state, self._ctx)
        self.phase = "train-step"
        result = self._trainer.train_step(prepared, self.state, self._ctx)
        metrics = metrics_of(result, state=self.state, optimizer=self._ctx.optimizer)
        self.completed += 1
        self._place = place_in(self._batches)  # a run may be canceled with one more batch in hand
        self._metrics = metrics
        control = getattr(result, "control", None)
        self._back_off(getattr(control, "backoff_seconds", None))
        if not getattr(control, "skip_cadence_emit", False):
            self._emit()
        return True

    def _raise_if_canceled(self) -> None:
        if self._reporter.is_canceled():
            raise TrainingCanceled(getattr(self._reporter, "cancel_reason", None) or "canceled")

    def _back_off(self, seconds: float | None) -> None:
        """Wait, but not for a run that is to stop."""
        left_s = max(0.0, float(seconds or 0.0))
        while left_s > 0 and not self._reporter.is_canceled():
            self._sleep(min(left_s, _LOOK_S))
            left_s -= _LOOK_S

    def _emit(self) -> None:
        job, step = self.job, self.completed
        if _is_due(job.metric_every, step):
            self._report_metrics()
        if _is_due(job.checkpoint_every, step):
            self._keep()
        if _is_due(job.sample_every, step):
            with untouched_rng():  # a run draws the same whether or not it makes samples
                paths = self._writer.write_samples(step=step, state=self.state, ctx=self._ctx)
            for path in paths:
                self._reporter.sample(path=path, step=step)
                if self._uploader is not None:
                    self._uploader.upload_sample(local_path=path, step=step)

    def _report_metrics(self) -> None:
        for name, value in self._metrics.items():
            self._reporter.metric(name=name, value=value, step=self.completed)
        if self._metrics and self._uploader is not None:
            self._uploader.upload_metrics(metrics=self._metrics, step=self.completed)

    # -- checkpoints -------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Have a checkpoint kept, now or while the run goes on."""
        begin = getattr(self._writer, "begin_checkpoint", None)
        with self._whole() as whole:
            if callable(begin):
                begin(**whole, metrics=self._metrics)
            else:
                write = self._writer.write_checkpoint
                offered = {"metrics": self._metrics, "runtime": whole.pop("runtime")}
                path = write(**whole, **accepted(write, offered))
                self._tell_of(path, self.completed)
        self._saved_at = self.completed
        self._tell_of_checkpoints(wait=False)

    def _tell_of(self, path: str, step: int) -> None:
        self._reporter.checkpoint(path=path, step=step)
        if self._uploader is not None:
            self._uploader.upload_checkpoint(local_path=path, step=step)

    def _tell_of_checkpoints(self, *, wait: bool) -> None:
        """Report those that have reached the disk since, and raise what kept one from it."""
        ended = getattr(self._writer, "ended_checkpoints", None)
        if callable(ended):
            for path, step in ended(wait=wait):
                self._tell_of(path, step)

    def _tell_of_last(self, error: BaseException) -> None:
        """Do so for a run that has failed already, which is what matters then."""
        try:
            self._tell_of_checkpoints(wait=True)
        except Exception as other:
            if other is not error:
                _log.warning("the last checkpoint of a run that failed was not kept: %s", other)

    def _keep_last(self) -> None:
        """Keep what was learned since the last checkpoint of a run that is canceled."""
        if self.completed > self._saved_at:
            self._keep()
        self._tell_of_checkpoints(wait=True)

    def _end(self) -> None:
        self._tell_of_checkpoints(wait=True)
        finalize = self._writer.finalize
        with self._whole() as whole:
            step, runtime = whole.pop("step"), whole.pop("runtime")
            offered = {"step": step, "metrics": self._metrics, "runtime": runtime}
            path = finalize(**whole, **accepted(finalize, offered))
        self.phase = "upload"
        if self._finishing is not None:
            self._finishing(path)
        self._reporter.completed(step=self.completed, final_checkpoint=path)

    @contextmanager
    def _whole(self) -> Iterator[dict[str, Any]]:
        """Give what a checkpoint is made of; what its making draws, the run draws again."""
        with untouched_rng() as rng:
            payload = self._trainer.state_dict(self.state)
            if not isinstance(payload, dict):
                raise TypeError(
                    f"state_dict returned {type(payload).__name__}, and has to return a dict of "
                    "what JSON can hold"
                )
            yield {
                "step": self.completed,
                "state_payload": payload,
                "trainer": self._trainer,
                "state": self.state,
                "ctx": self._ctx,
                "runtime": moment_of(self._place, rng),
            }

    def _text_of(self, error: BaseException) -> str:
        if isinstance(error, TrainingCanceled):
            return error.reason
        if isinstance(error, ArtifactUploadError):
            return f"upload:{error}"
        category = category_of(error, self.phase)
        text = told(error, category)
        return text if category == "train-step" else f"{category}:{text}"


def run_training_loop(
    *,
    job: TrainingJobSpec,
    ctx: StepContext,
    trainer: Any,
    batches: Any,
    reporter: TrainingReporter,
    artifact_writer: ArtifactWriter,
    uploader: ArtifactUploader | None = None,
    start_step: int = 0,
    resume_state_payload: dict[str, Any] | None = None,
    resume_checkpoint_path: str | None = None,
) -> int:
    """Train, and return the completed steps; arguments and errors are those of `TrainingLoop`."""
    return TrainingLoop(
        job=job,
        ctx=ctx,
        trainer=trainer,
        batches=batches,
        reporter=reporter,
        artifact_writer=artifact_writer,
        uploader=uploader,
        start_step=start_step,
        resume_state_payload=resume_state_payload,
        resume_checkpoint_path=resume_checkpoint_path,
    ).run()


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
