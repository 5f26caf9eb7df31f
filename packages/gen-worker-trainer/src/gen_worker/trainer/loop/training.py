"""The step loop: which hook is called when, and what is reported then.

It knows nothing of environment, paths or networks: all of that is behind its reporter, its writer
and its uploader. What a job may ask for besides goes along as parts.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.categories import category_of, told
from gen_worker.trainer.distributed.world import ALONE
from gen_worker.trainer.errors import ArtifactUploadError, TrainingCanceled
from gen_worker.trainer.loop.duties import OWED, Duties, Duty
from gen_worker.trainer.loop.finite import FiniteLoss
from gen_worker.trainer.loop.nonfinite import NONFINITE, put_back
from gen_worker.trainer.loop.parts import points
from gen_worker.trainer.loop.reporting import Reporting
from gen_worker.trainer.loop.running import LoopPhase, Run
from gen_worker.trainer.loop.saving import PARTS, Saving
from gen_worker.trainer.loop.stepping import END, source_of, stepping_of
from gen_worker.trainer.state.moment import go_on_at, place_in
from gen_worker.trainer.state.restoring import restore_training_state
from gen_worker.trainer.state.rng import part_ways, restore_rng, untouched_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.trainer.distributed.world import World
    from gen_worker.trainer.job import TrainingJobSpec
    from gen_worker.trainer.loop.parts import Part
    from gen_worker.trainer.protocols import (
        ArtifactUploader,
        ArtifactWriter,
        TrainingReporter,
    )
    from gen_worker.trainer.state.held import HeldFiles
    from gen_worker.trainer.steps import StepContext

__all__ = ["TrainingLoop", "run_training_loop"]

_LOOK_S = 0.05
_SAMPLES = "samples"


class TrainingLoop:
    """One run. `phase`, `completed` and `attempted` say how far it came, also once it failed.

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
        resume_held: What of that directory is read already; it is used up.
        finishing: Called with the path of the final checkpoint before the run is reported as
            completed; what it raises fails the run.
        sleep: Seconds.
        world: The processes that train together; the first one reports, samples and uploads.
        parts: What goes along.
    """

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
        resume_held: HeldFiles | None = None,
        finishing: Callable[[str | None], object] | None = None,
        sleep: Callable[[float], object] = time.sleep,
        world: World = ALONE,
        parts: Sequence[Part] = (),
    ) -> None:
        """Prepare; nothing is called yet."""
        self.job = job
        reporting = Reporting(reporter, uploader, parts, world)
        self._facts = Run(
            ctx=ctx, trainer=trainer, world=world, reporting=reporting, step=start_step
        )
        self.is_ending = False
        """Whether all steps are done, and only the final checkpoint is to be kept and sent."""
        self._batches = batches
        self._writer = artifact_writer
        self._payload = resume_state_payload
        self._checkpoint_dir = resume_checkpoint_path
        self._runtime = resume_runtime or {}
        self._held = resume_held
        self._finishing = finishing
        self._sleep = sleep
        self._parts = parts
        self._begun: list[Part] = []
        self._reporter = reporting.reporter
        self._before = points(parts, "before_step")
        self._after = points(parts, "after_step")
        self._saving = Saving(self._facts, artifact_writer, parts, self._runtime)
        self._duties = Duties(
            [
                Duty(job.metric_every, reporting.step),
                *(one for part in parts for one in part.duties()),
                Duty(job.checkpoint_every, lambda _: self._saving.keep()),
                Duty(job.sample_every, self._sample, _SAMPLES),
            ]
        )

    @property
    def phase(self) -> LoopPhase:
        """What a failure is put down to now."""
        return self._facts.phase

    @property
    def completed(self) -> int:
        """Steps that are done."""
        return self._facts.step

    @property
    def attempted(self) -> int:
        """The last step that was begun."""
        return self._facts.attempted

    @property
    def state(self) -> Any:
        """What `configure` returned."""
        return self._facts.state

    def run(self) -> int:
        """Train, and return the completed steps.

        Raises:
            TrainingCanceled: The reporter said so; a checkpoint of the last completed step is kept.
            OtherProcessError: Another process of the run has failed first.
            Exception: Whatever a hook, the writer or the uploader raised, once it is reported.
        """
        try:
            completed = self._run()
        except BaseException as error:
            step = min(max(self.completed, self.attempted), self.job.max_steps)
            self._saving.tell_last(error)
            self._end_parts(error)
            cause = self._facts.world.cause_of(error)
            with suppress(Exception):  # the run's own error is what matters
                self._reporter.failed(step=step, error=self._text_of(cause))
            if cause is error:
                raise
            raise cause from error
        self._end_parts(None)
        return completed

    def _run(self) -> int:
        run = self._facts
        self._begin()
        run.phase = "input"
        run.reporting.phase("train", run.step)
        go_on_at(self._runtime, self._batches)
        source = source_of(self._batches)
        if "rng" in self._runtime:  # the last of all: nothing is drawn before the first step
            restore_rng(self._runtime["rng"])
        try:
            self._train(source)
        except TrainingCanceled:
            self._saving.keep_last()
            raise
        finally:
            close = getattr(source, "close", None)
            if callable(close):
                close()
        self._end()
        return min(self.completed, self.job.max_steps)

    def _begin(self) -> None:
        run = self._facts
        trainer, ctx, say = run.trainer, run.ctx, run.reporting.phase
        say("setup", run.step)
        trainer.setup(ctx)
        say("configure", run.step)
        run.state = trainer.configure(ctx)
        part_ways(run.world.rank)
        if self._payload is not None:
            say("restore", run.step)
            self._restore(self._payload)
        for part in self._parts:
            part.begin(run)
            self._begun.append(part)
        self._reporter.started(request_id=self.job.request_id)

    def _restore(self, payload: dict[str, Any]) -> None:
        run = self._facts
        put_back(payload, self._runtime.get(NONFINITE, ()))
        run.trainer.load_state_dict(run.state, payload, run.ctx)
        load = getattr(run.trainer, "load_checkpoint", None)
        if callable(load):
            load(
                state=run.state,
                checkpoint_dir=self._checkpoint_dir,
                payload=payload,
                ctx=run.ctx,
            )
        if self._checkpoint_dir is not None:
            restore_training_state(run.state, self._checkpoint_dir, run.world, held=self._held)
        self._held = None
        kept = self._runtime.get(PARTS, {})
        for part in self._parts:
            if part.name in kept:
                part.restore(kept[part.name])

    # -- steps -------------------------------------------------------------------------------------

    def _train(self, source: Any) -> None:
        run = self._facts

        def fetch() -> Any:
            return next(source, END)

        take = stepping_of(run, self._parts, fetch)
        run.phase = "train-step"
        self._duties.make_up(run, self._runtime.get(OWED, ()))
        while run.step < self.job.max_steps and self._step(fetch, take):
            pass

    def _step(self, fetch: Callable[[], Any], take: Callable[[Any], Any]) -> bool:
        """Do one step; False when there is to be none."""
        run = self._facts
        self._saving.tell()
        run.phase = "input"
        begun_at = time.perf_counter()
        raw = END if run.why_stop else fetch()
        fetched_at = time.perf_counter()
        if not self._goes_on(raw):
            return False
        run.attempted = run.step + 1
        for before in self._before:
            before(run)
        run.outcome = outcome = take(raw)
        for after in self._after:
            after(run)
        run.waited_s += fetched_at - begun_at
        run.busy_s += time.perf_counter() - fetched_at
        run.samples += outcome.samples
        run.step += 1
        # A run may be canceled with one more batch in hand.
        self._saving.place = place_in(self._batches)
        self._follow(outcome.control)
        return True

    def _goes_on(self, raw: Any) -> bool:
        """Tell whether every process has a batch, and none is to stop.

        Raises:
            TrainingCanceled: One is.
        """
        world = self._facts.world
        is_canceled = raw is not END and self._reporter.is_canceled()
        if not world.any(raw is END or is_canceled):
            return True
        if world.any(is_canceled):
            raise self._facts.canceled()
        return False

    def _follow(self, control: Any) -> None:
        """Do what a step asks for, and what is due after it."""
        run = self._facts
        if control is not None:
            self._back_off(getattr(control, "backoff_seconds", None))
            if getattr(control, "stop", False):
                run.stop("the trainer asked for it")
            if getattr(control, "skip_cadence_emit", False):
                return
        self._duties.do(run)

    def _back_off(self, seconds: float | None) -> None:
        """Wait, but not for a run that is to stop."""
        left_s = max(0.0, float(seconds or 0.0))
        while left_s > 0 and not self._reporter.is_canceled():
            self._sleep(min(left_s, _LOOK_S))
            left_s -= _LOOK_S

    def _sample(self, run: Run) -> None:
        with (
            run.taking_time(),
            untouched_rng(),
        ):  # a run draws the same whether or not it makes samples
            paths = self._writer.write_samples(step=run.step, state=run.state, ctx=run.ctx)
        for path in paths:
            run.reporting.sample(path, run.step)
        self._saving.done(_SAMPLES)

    # -- the end -----------------------------------------------------------------------------------

    def _end(self) -> None:
        self.is_ending = True
        self._facts.phase = "train-step"
        path = self._saving.finalize()
        self._facts.phase = "upload"
        if self._finishing is not None:
            with self._facts.taking_time():
                self._finishing(path)
        self._reporter.completed(step=self.completed, final_checkpoint=path)

    def _end_parts(self, error: BaseException | None) -> None:
        for part in self._begun:
            part.end(self._facts, error)

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
    """Train, and return the completed steps; arguments and errors are those of `TrainingLoop`.

    A loss that is no finite number fails the run.
    """
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
        parts=[FiniteLoss(is_fatal=True)],
    ).run()
