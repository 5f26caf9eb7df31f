"""Which parts go along with a run, as its job spec says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.trainer.batches import batches_of
from gen_worker.trainer.data import LoadedBatches
from gen_worker.trainer.data.shares import Shares, Spare
from gen_worker.trainer.loop.early_stop import Patience
from gen_worker.trainer.loop.evaluation import Evaluation
from gen_worker.trainer.loop.finite import FiniteLoss, SkippedUpdates
from gen_worker.trainer.loop.heartbeat import Heartbeat
from gen_worker.trainer.loop.performance import Performance
from gen_worker.trainer.loop.profiling import Profiling
from gen_worker.trainer.tracking import TrackedRun, Tracking, trackers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.trainer.config import RunConfig
    from gen_worker.trainer.distributed.world import World
    from gen_worker.trainer.job_file import JobFile
    from gen_worker.trainer.loop import Part, Run

__all__ = ["eval_batches_of", "parts_of"]


def parts_of(config: RunConfig, world: World, start_step: int = 0) -> list[Part]:
    """Return what goes along in this process; what only one process needs, the first one has.

    Args:
        config: Of the job.
        world: The processes that train together.
        start_step: Steps that are done already.

    Raises:
        StartupContractError: A tracker cannot be made.
    """
    job = config.job
    return [*_of_each(job), *(_of_the_first(config, start_step) if world.is_first else ())]


def eval_batches_of(job: JobFile, run: Run) -> Any:
    """Return this process's share of the data of an evaluation, from their beginning.

    Without files they are the spec's batches.
    """
    dataset = msgspec.structs.replace(job.eval_dataset, epochs=1)
    every = batches_of(msgspec.structs.replace(job, dataset=dataset), dataset.parquet_paths)
    batches = Shares(every, run.world.rank, run.world.size, job.eval_max_batches)
    trainer, ctx = run.trainer, run.ctx
    if not callable(getattr(trainer, "load_batch", None)):
        return batches

    def load(raw: Any, epoch: int) -> Any:
        if not isinstance(raw, Spare):
            return trainer.load_batch(raw, epoch, ctx)
        loaded = trainer.load_batch(raw.batch, epoch, ctx)
        return None if loaded is None else Spare(loaded)

    return LoadedBatches(batches, load, ahead=dataset.readahead, may_omit=run.world.size == 1)


def _of_each(job: JobFile) -> Iterator[Part]:
    if job.nan_policy == "skip":
        yield SkippedUpdates()
    else:
        yield FiniteLoss(is_fatal=job.nan_policy == "fail")
    if job.eval_every:
        yield Evaluation(job.eval_every, lambda run: eval_batches_of(job, run))


def _of_the_first(config: RunConfig, start_step: int) -> Iterator[Part]:
    job = config.job
    yield Performance()
    if job.early_stop is not None:
        yield Patience(job.early_stop)
    if job.heartbeat_seconds or job.stall_seconds:
        yield Heartbeat(job.heartbeat_seconds, job.stall_seconds)
    if job.profile is not None:
        yield Profiling(job.profile, os.path.join(config.places.metrics, "profile"))
    if job.trackers:
        run = TrackedRun(
            request_id=job.request_id,
            trainer=config.trainer,
            hyperparams=job.hyperparams,
            directory=config.places.metrics,
            start_step=start_step,
            max_steps=job.max_steps,
        )
        yield Tracking(trackers_of(job.trackers), run)
