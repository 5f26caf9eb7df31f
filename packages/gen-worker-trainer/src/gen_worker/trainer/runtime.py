"""One training job in one process: from its spec to its exit code."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.settings import load
from gen_worker.trainer.batches import SkippingBatches, batches_of
from gen_worker.trainer.cancel import RuntimeCancelPolicy
from gen_worker.trainer.categories import Phase, category_of, told
from gen_worker.trainer.checkpoints import Keeping
from gen_worker.trainer.checkpoints.values import FINAL
from gen_worker.trainer.config import Places, RunConfig, asked_to_stop, places_of, resolve
from gen_worker.trainer.data.loading import LoadedBatches
from gen_worker.trainer.determinism import deterministic
from gen_worker.trainer.devices import device_of, dtype_of
from gen_worker.trainer.distributed.agreement import first_does
from gen_worker.trainer.distributed.group import open_world
from gen_worker.trainer.distributed.joining import fetched, point_of, share_of
from gen_worker.trainer.distributed.place import place_of
from gen_worker.trainer.distributed.world import ALONE
from gen_worker.trainer.earlier import EarlierRun
from gen_worker.trainer.errors import TrainingCanceled
from gen_worker.trainer.forced_exit import ForcedExit
from gen_worker.trainer.hyperparams import typed_hyperparams
from gen_worker.trainer.inputs import Materialized, materialize
from gen_worker.trainer.job_file import JobFile, SampleRequest, load_job_file
from gen_worker.trainer.job_parts import parts_of
from gen_worker.trainer.loop import TrainingLoop
from gen_worker.trainer.metrics import RESUMED_FROM
from gen_worker.trainer.plugin import load_trainer_plugin
from gen_worker.trainer.reporter import LocalTrainingReporter
from gen_worker.trainer.resume import Origin, ResumePoint, finished_at, resume_point
from gen_worker.trainer.settings import TrainerSettings
from gen_worker.trainer.state.rng import seed_everything
from gen_worker.trainer.steps import StepContext
from gen_worker.trainer.uploads import open_uploader
from gen_worker.trainer.uploads.record import is_sent, note_sent
from gen_worker.trainer.writer import LocalArtifactWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from gen_worker.trainer.data import BatchSource
    from gen_worker.trainer.distributed.world import World

    Observer = Callable[[dict[str, Any]], object] | None

__all__ = [
    "Host",
    "LocalArtifactWriter",
    "LocalTrainingReporter",
    "RuntimeCancelPolicy",
    "SampleRequest",
    "TrainingRun",
    "run_training_runtime",
    "run_training_runtime_from_env",
]

_log = logging.getLogger("gen_worker.trainer")


def run_training_runtime_from_env() -> int:
    """Run the job that the settings name; see `run_training_runtime`."""
    return run_training_runtime(load(TrainerSettings))


def run_training_runtime(settings: TrainerSettings, *, observer: Observer = None) -> int:
    """Run one job, or take part in it as one of the processes that a launcher has started.

    Args:
        settings: What the operator says.
        observer: Given every event as it is written; see `LocalTrainingReporter`.

    Returns:
        0: it is completed, or was before. 1, 130 or 143: it was stopped, by a file or its time
        limit, by SIGINT, by SIGTERM; what it has learned is kept.

    Raises:
        Exception: Whatever ended it; the event `failed` is written where there is a place for it.
    """
    places = places_of(settings)
    request_id = ""
    with ExitStack() as stack:
        try:
            job = load_job_file(settings.job_spec_path)
            request_id = job.request_id
            config = resolve(settings, job, places)
            world = stack.enter_context(_world_of(settings, job))
        except Exception as error:
            if not settings.rank:
                _tell_early(places, request_id, error, observer)
            raise
        host = _host_of_process(config)._replace(world=world)
        return TrainingRun(config, observer=observer, host=host).run()


def _world_of(settings: TrainerSettings, job: JobFile) -> AbstractContextManager[World]:
    """Return where this process meets those that it trains with."""
    place = place_of(settings)
    if place is None:
        return open_world(None)
    return open_world(place, device=device_of(job.hyperparams, local_rank=place.local_rank))


def _tell_early(places: Places, request_id: str, error: BaseException, observer: Observer) -> None:
    """Write `failed` of a job that cannot even begin."""
    with suppress(OSError):  # there is nowhere to write
        reporter = LocalTrainingReporter(places.events, request_id=request_id, observer=observer)
        reporter.failed(step=0, error=f"startup:{told(error, 'startup')}")


class Host(NamedTuple):
    """What is around a run: what it is stopped by, and where its results go."""

    policy: RuntimeCancelPolicy
    open_uploader: Callable[[RunConfig], Any] = open_uploader
    """Returns an `ArtifactUploader` with `upload_terminal` and `close`, or None."""
    load_trainer: Callable[[str], Any] = load_trainer_plugin
    world: World = ALONE
    has_process: bool = False
    """Whether the process is the run's own, and ends when a run that is to stop does not."""


def _host_of_process(config: RunConfig) -> Host:
    """Return what is around a run that has a process to itself."""
    limit_s = config.max_runtime_seconds
    policy = RuntimeCancelPolicy(config.cancel_file or None, limit_s, is_asked=asked_to_stop())
    return Host(policy, has_process=True)


class TrainingRun:
    """One job whose spec is read. Its parts are opened in turn and closed in the end."""

    def __init__(
        self, config: RunConfig, *, observer: Observer = None, host: Host | None = None
    ) -> None:
        """Prepare.

        Args:
            config: Of the job.
            observer: Given the events as they are written.
            host: What is around it; by default a process of its own.
        """
        self._host = host or _host_of_process(config)
        self._world = world = self._host.world
        job = share_of(config.job, world)
        self._config = msgspec.structs.replace(config, job=job)
        self._policy = self._host.policy
        self._reporter = LocalTrainingReporter(
            config.places.events if world.is_first else None,
            cancel_policy=self._policy,
            request_id=job.request_id,
            events_version=job.events_version,
            observer=observer,
            is_heard=world.is_first,
        )
        self._phase: Phase = "startup"
        self._loop: TrainingLoop | None = None
        self._uploader: Any = None

    def run(self) -> int:
        """Train; return the exit code.

        Raises:
            Exception: Whatever ended it, once it is reported.
        """
        with ExitStack() as stack:
            stack.enter_context(self._policy.hearing_signals())
            grace_s = self._config.job.cancel_grace_seconds if self._host.has_process else 0
            try:
                with ForcedExit(
                    self._policy, grace_s, self._tell_forced_end, is_needed=self._has_steps
                ):
                    self._run(stack)
            except TrainingCanceled as error:
                _log.warning("training is stopped: %s", error.reason)
                self._tell_end(error)
                return self._policy.exit_code
            except BaseException as error:
                cause = self._world.cause_of(error)
                self._tell_end(cause)
                if cause is error:
                    raise
                raise cause from error
        return 0

    def _run(self, stack: ExitStack) -> None:
        config, job, places = self._config, self._config.job, self._config.places
        world = self._world
        self._phase = "input"
        inputs = stack.enter_context(fetched(world, lambda: materialize(config)))
        self._phase = "startup"
        spec = job.spec
        self._phase = "model-load"
        trainer = self._host.load_trainer(config.trainer)
        self._phase = "startup"
        hyperparams = typed_hyperparams(trainer, job.hyperparams)
        writer = LocalArtifactWriter(
            checkpoints_dir=places.checkpoints,
            samples_dir=places.samples,
            sample_requests=job.samples,
            sample_fixed_seed=job.sample_seed,
            keeping=_keeping_of(job),
            world=world,
        )
        stack.callback(writer.close)
        self._open_uploader(stack)
        finished = first_does(world, lambda: finished_at(job, writer.store))
        if finished is not None:
            self._reporter.started(request_id=job.request_id)
            self._send_finished(writer, finished)
            self._reporter.completed(step=job.max_steps, final_checkpoint=finished)
            return
        point = point_of(world, lambda: resume_point(job, writer.store, inputs.find_checkpoint))
        if point is not None:
            self._send_kept(writer, point.step)
        if job.seed is not None:
            seed_everything(job.seed)
        if job.deterministic:
            stack.enter_context(deterministic())
        self._loop = self._loop_of(trainer, writer, inputs, point, hyperparams)
        if point is not None and point.step > 0:
            step = float(point.step)
            self._reporter.metric(name=RESUMED_FROM, value=step, step=point.step)
        _log.info("training %r: %d steps of %s", job.request_id, spec.max_steps, config.trainer)
        self._loop.run()

    def _loop_of(
        self,
        trainer: Any,
        writer: LocalArtifactWriter,
        inputs: Materialized,
        point: ResumePoint | None,
        hyperparams: Any,
    ) -> TrainingLoop:
        job = self._config.job
        batches: BatchSource = batches_of(
            job, inputs.parquet_paths, arrow_ipc_path=self._config.arrow_ipc_path
        )
        runtime = dict(point.runtime) if point is not None else {}
        start_step = 0 if point is None else point.step
        if job.dataset.resume == "restart":
            runtime.pop("cursor", None)
        elif point is not None and "cursor" not in runtime:
            batches = SkippingBatches(batches, point.step)
        if callable(getattr(trainer, "load_batch", None)):
            batches = LoadedBatches(
                batches,
                lambda raw, epoch: trainer.load_batch(raw, epoch, ctx),
                ahead=job.dataset.readahead,
                may_omit=self._world.size == 1,
            )
        ctx = StepContext(
            job=job.spec,
            model_handles=dict(inputs.model_handles),
            dataset=batches,
            device=device_of(job.hyperparams, local_rank=self._world.local_rank),
            dtype=dtype_of(job.hyperparams),
            is_canceled=self._reporter.is_canceled,
            hyperparams=hyperparams,
        )
        return TrainingLoop(
            job=ctx.job,
            ctx=ctx,
            trainer=trainer,
            batches=batches,
            reporter=self._reporter,
            artifact_writer=writer,
            uploader=self._uploader,
            start_step=start_step,
            resume_state_payload=None if point is None else point.state,
            resume_checkpoint_path=None if point is None else point.directory,
            resume_runtime=runtime,
            resume_held=None if point is None else point.held,
            finishing=self._publish,
            world=self._world,
            parts=[
                *parts_of(self._config, self._world, start_step),
                EarlierRun(writer, point),
                Origin(job),
            ],
        )

    # -- what an earlier attempt has made ----------------------------------------------------------

    def _open_uploader(self, stack: ExitStack) -> None:
        if self._world.is_first:
            self._uploader = self._host.open_uploader(self._config)
        if self._uploader is not None:
            stack.callback(self._uploader.close)

    def _send_kept(self, writer: LocalArtifactWriter, step: int) -> None:
        """Have the checkpoints published, too, that this attempt goes on from."""
        if self._uploader is not None:
            for path, at in writer.kept_checkpoints():
                if at <= step:
                    self._uploader.upload_checkpoint(local_path=path, step=at)

    def _send_finished(self, writer: LocalArtifactWriter, final_json: str) -> None:
        """Publish a run that was killed after its last step and before that was done."""
        if self._uploader is None or is_sent(self._config.places.metrics, final_json):
            return
        self._phase = "upload"
        self._send_kept(writer, self._config.job.max_steps)
        self._send_end(self._config.job.max_steps, final_json)

    # -- the end -----------------------------------------------------------------------------------

    def _publish(self, final_checkpoint: str | None) -> None:
        """Have everything where it belongs before the run is said to be completed."""
        assert self._loop is not None, "it has just ended"
        self._send_end(self._loop.completed, final_checkpoint)

    def _send_end(self, step: int, final_checkpoint: str | None) -> None:
        if self._uploader is None:
            return
        self._uploader.upload_terminal(
            status="completed", step=step, final_checkpoint=final_checkpoint
        )
        places = self._config.places
        note_sent(places.metrics, os.path.join(places.checkpoints, f"{FINAL}.json"))

    def _has_steps(self) -> bool:
        return self._loop is None or not self._loop.is_ending

    def _tell_forced_end(self, reason: str) -> None:
        """Tell of a run whose process is about to end; from another thread."""
        loop = self._loop
        step = 0 if loop is None else min(max(loop.completed, loop.attempted), loop.job.max_steps)
        self._reporter.failed(step=step, error=reason)
        self._tell_end(TrainingCanceled(reason), drain_seconds=0)

    def _tell_end(self, error: BaseException, *, drain_seconds: float | None = None) -> None:
        """Tell of a run that is not completed; the loop has written its event, if it had begun."""
        loop = self._loop
        category = category_of(error, self._phase if loop is None else loop.phase)
        text = f"{category}:{told(error, category)}"
        self._reporter.failed(step=0, error=text)
        is_canceled = isinstance(error, TrainingCanceled)
        if is_canceled and drain_seconds is None:
            drain_seconds = self._config.job.cancel_grace_seconds
        try:
            with ExitStack() as stack:
                if self._uploader is None:  # the run has not come that far
                    self._open_uploader(stack)
                if self._uploader is not None:
                    self._uploader.upload_terminal(
                        status="canceled" if is_canceled else "failed",
                        step=0 if loop is None else loop.completed,
                        final_checkpoint=None,
                        error=text,
                        drain_seconds=drain_seconds,
                    )
        except Exception as unsent:  # the run's own error is what matters
            _log.warning("nobody could be told how the run ended: %s", unsent)


def _keeping_of(job: JobFile) -> Keeping:
    """Return which checkpoints stay."""
    best = job.keep_best_checkpoints
    if best is None:
        return Keeping(last=job.keep_last_checkpoints)
    last = job.keep_last_checkpoints or 1  # without a number of the last ones, all would stay
    return Keeping(last=last, best=best.count, metric=best.metric, mode=best.mode)
