"""Keeps what a run produces in directories of this machine."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.trainer.checkpoints import Background, CheckpointStore, Keeping
from gen_worker.trainer.checkpoints.files import size_of
from gen_worker.trainer.distributed.agreement import first_does, together
from gen_worker.trainer.distributed.world import ALONE
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.samples import Samples
from gen_worker.trainer.state.moment import keep_of_rank
from gen_worker.trainer.state.saving import DIRECTORY
from gen_worker.trainer.state.training_state import training_state_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from gen_worker.trainer.checkpoints import Checkpoint, Draft
    from gen_worker.trainer.distributed.world import World
    from gen_worker.trainer.job_file import SampleRequest
    from gen_worker.trainer.state.saving import Staged, StatePlan
    from gen_worker.trainer.state.staging import Staging
    from gen_worker.trainer.steps import StepContext

__all__ = ["LocalArtifactWriter", "SavedCheckpoint"]

_SMALL_BYTES = 8 * 1024 * 1024


class SavedCheckpoint(NamedTuple):
    """One that is on disk."""

    path: str
    """Of its main file."""
    step: int


class _Kept(NamedTuple):
    """What one checkpoint is made of besides files."""

    step: int
    request_id: str
    state_payload: dict[str, Any]
    metrics: Mapping[str, float]
    runtime: Mapping[str, Any]


class _Saving(NamedTuple):
    """A checkpoint of which everything is copied, and not all is on disk."""

    kept: _Kept
    directory: str
    draft: Draft | None
    """In the first process."""
    is_open: ExitStack
    """Leaves nothing of the draft that is not committed."""
    trainer_checkpoint: Mapping[str, Any] | None
    staged: Staged | None
    size_bytes: int


class LocalArtifactWriter:
    """Checkpoints and samples of one job.

    A trainer's `TrainingState` is copied, and written while the run goes on; so is what its
    `save_checkpoint` has written made durable. One checkpoint is on its way at a time.

    Where several processes train, each calls all methods for checkpoints, and they write to one
    file system. A checkpoint is made of what each has, and is there once all of it is. Only the
    first process calls `save_checkpoint` of the trainer, unless each has a part of the tensors:
    then all do, and what the others write is thrown away.
    """

    def __init__(
        self,
        *,
        checkpoints_dir: str | os.PathLike[str],
        samples_dir: str | os.PathLike[str],
        sample_requests: Sequence[SampleRequest] = (),
        sample_fixed_seed: int | None = None,
        keeping: Keeping | None = None,
        small_bytes: int = _SMALL_BYTES,
        world: World = ALONE,
    ) -> None:
        """Take the directory of checkpoints over.

        Args:
            checkpoints_dir: Made where there is none.
            samples_dir: Made with the first sample.
            sample_requests: What samples are made of.
            sample_fixed_seed: Of samples without a seed of their own.
            keeping: Which checkpoints stay; all by default.
            small_bytes: A checkpoint whose files have at most so many is waited for: to write it
                while the run goes on would take longer in all, and its event come later.
            world: The processes that train together.

        Raises:
            CheckpointsInUseError: Another job writes there.
        """
        self._world = world
        self._beside = world.beside()
        self._store: CheckpointStore | None = None
        if world.is_first:
            self._store = CheckpointStore(os.fspath(checkpoints_dir), keeping)
        self.last_final_checkpoint_path: str | None = None
        self._samples = Samples(os.fspath(samples_dir), sample_requests, sample_fixed_seed)
        self._background: Background[SavedCheckpoint] = Background("gen-worker-checkpoint")
        self._staging: Staging | None = None
        self._small_bytes = small_bytes

    def close(self) -> None:
        """Wait for the checkpoint that is on its way, and let other jobs have the directory.

        Raises:
            BaseException: What kept it from the disk, if nobody has asked yet.
        """
        try:
            self._background.wait()
        finally:
            if self._store is not None:
                self._store.close()

    @property
    def store(self) -> CheckpointStore:
        """The checkpoints; in the first process."""
        assert self._store is not None, "what it says is asked of the first process"
        return self._store

    # -- checkpoints -------------------------------------------------------------------------------

    def begin_checkpoint(
        self,
        *,
        step: int,
        state_payload: dict[str, Any],
        trainer: Any,
        state: Any,
        ctx: StepContext,
        metrics: Mapping[str, float] | None = None,
        runtime: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy what a checkpoint is made of; it is on disk once `ended_checkpoints` says so.

        Waits for the one before. A small one is on disk when this returns.

        Raises:
            CheckpointSpaceError: There is no room for it.
            BaseException: What kept the one before from the disk.
        """
        request_id = ctx.job.request_id
        kept = _Kept(step, request_id, state_payload, metrics or {}, runtime or {})
        saving = self._copied(kept, trainer, state, ctx, is_final=False)
        try:
            self._background.start(lambda: self._finished(saving))
        except BaseException:
            saving.is_open.close()
            raise
        if saving.size_bytes <= self._small_bytes:
            self._background.wait()

    def ended_checkpoints(self, *, wait: bool) -> Iterator[SavedCheckpoint]:
        """Yield the checkpoints that are on disk and were not yielded before.

        Args:
            wait: Whether to block until the one on its way is.

        Raises:
            BaseException: What kept one from the disk.
        """
        return self._background.results(wait=wait)

    def write_checkpoint(
        self,
        *,
        step: int,
        state_payload: dict[str, Any],
        trainer: Any,
        state: Any,
        ctx: StepContext,
        metrics: Mapping[str, float] | None = None,
        runtime: Mapping[str, Any] | None = None,
    ) -> str:
        """Keep a checkpoint, then remove those that need not stay; return its main file."""
        request_id = ctx.job.request_id
        kept = _Kept(step, request_id, state_payload, metrics or {}, runtime or {})
        return self._finished(self._copied(kept, trainer, state, ctx, is_final=False)).path

    def kept_checkpoints(self) -> list[SavedCheckpoint]:
        """Return the periodic ones that there are, by step, as they were told of."""
        kept = (one for one in self.store.checkpoints() if not one.final)
        return [SavedCheckpoint(self._main_file(one), one.step) for one in kept]

    def note_done(self, *, step: int, done: Collection[str]) -> None:
        """Note which duties of a step are done, by name, that its checkpoint says are not."""
        if self._store is not None:
            self._store.note_done(step, done)

    def write_samples(self, *, step: int, state: Any, ctx: StepContext) -> list[str]:
        """Make samples and return their paths; none in other processes than the first.

        Those make samples as well where each has a part of the model, or the first one would wait
        for them. One process that trains alone makes no further ones once it is to stop.

        Raises:
            TrainingCanceled: It is to stop, and not all are made.
        """
        if self._world.size == 1 and ctx.is_canceled is not None:
            return self._samples.write(step, state, ctx, is_canceled=ctx.is_canceled)
        if self._world.is_first:
            return self._samples.write(step, state, ctx)
        plan = self._plan_of(state)
        if plan is not None and plan.is_sharded:
            with tempfile.TemporaryDirectory(prefix="gen-worker-samples-") as scratch:
                self._samples.inside(scratch).write(step, state, ctx)
        return []

    def finalize(
        self,
        *,
        state_payload: dict[str, Any],
        trainer: Any,
        state: Any,
        ctx: StepContext,
        step: int = 0,
        metrics: Mapping[str, float] | None = None,
        runtime: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Keep the final checkpoint; return its main file."""
        request_id = ctx.job.request_id
        kept = _Kept(step, request_id, state_payload, metrics or {}, runtime or {})
        saved = self._finished(self._copied(kept, trainer, state, ctx, is_final=True))
        self.last_final_checkpoint_path = saved.path
        return saved.path

    # ----------------------------------------------------------------------------------------------

    def _copied(
        self, kept: _Kept, trainer: Any, state: Any, ctx: StepContext, *, is_final: bool
    ) -> _Saving:
        """Have the trainer write its files, and copy its state; in all processes, or in none."""
        world = self._world
        plan = together(world, lambda: self._planned(state))
        need_bytes = plan.size_bytes if plan is not None else 0
        drafts: list[Draft] = []
        with ExitStack() as stack:

            def begin() -> str:
                building = self.store.building(
                    kept.step, is_final=is_final, need_bytes=need_bytes * _files_of(plan, world)
                )
                drafts.append(stack.enter_context(building))
                if plan is not None:
                    os.mkdir(os.path.join(drafts[0].directory, DIRECTORY))
                return drafts[0].directory

            directory = first_does(world, begin)

            def fill() -> tuple[Mapping[str, Any] | None, Staged | None]:
                _require_shared(directory, world)
                save = getattr(trainer, "save_checkpoint", None)
                result = None
                if callable(save) and (world.is_first or (plan is not None and plan.is_sharded)):
                    facts = {"state": state, "step": kept.step, "final": is_final, "ctx": ctx}
                    result = self._saved(save, facts, directory)
                return result, self._staged(plan) if plan is not None else None

            result, staged = together(world, fill)
            size_bytes = need_bytes + (size_of(directory) if world.is_first else 0)
            draft = drafts[0] if drafts else None
            return _Saving(kept, directory, draft, stack.pop_all(), result, staged, size_bytes)

    def _planned(self, state: Any) -> StatePlan | None:
        self._background.wait()  # the memory that is copied to is in use until then
        return self._plan_of(state)

    def _plan_of(self, state: Any) -> StatePlan | None:
        """Return what of a trainer's state is to be copied; None when it hands nothing over."""
        training = training_state_of(state)
        if training is None:
            return None
        from gen_worker.trainer.state.saving import plan_of

        return plan_of(training, rank=self._world.rank, size=self._world.size)

    def _saved(
        self, save: Any, facts: Mapping[str, Any], directory: str
    ) -> Mapping[str, Any] | None:
        """Have the trainer write its files."""
        with ExitStack() as stack:
            if not self._world.is_first:
                scratch = tempfile.TemporaryDirectory(prefix="gen-worker-checkpoint-")
                directory = stack.enter_context(scratch)
            result = save(**facts, output_dir=Path(directory))
        if result is not None and not isinstance(result, Mapping):
            raise CheckpointError(
                f"save_checkpoint returned {type(result).__name__}, and has to return a "
                "mapping or None",
                path=directory,
            )
        return result

    def _staged(self, plan: StatePlan) -> Staged:
        from gen_worker.trainer.state.staging import Staging

        if self._staging is None:
            self._staging = Staging()
        return plan.staged(self._staging)

    def _finished(self, saving: _Saving) -> SavedCheckpoint:
        """Have it on disk; from whichever thread, in each process."""
        world = self._beside
        with saving.is_open:
            together(world, lambda: self._written(saving))
            path, step = first_does(world, lambda: self._committed(saving))
        if saving.draft is not None and not saving.draft.is_final:
            self.store.retire()
        return SavedCheckpoint(path, step)

    def _written(self, saving: _Saving) -> None:
        if saving.staged is not None:
            saving.staged.write(saving.directory)
        if not self._world.is_first:
            keep_of_rank(saving.directory, saving.kept.runtime, self._world)

    def _committed(self, saving: _Saving) -> SavedCheckpoint:
        kept, draft = saving.kept, saving.draft
        assert draft is not None, "the first process has it"
        finite = {name: value for name, value in kept.metrics.items() if math.isfinite(value)}
        checkpoint = draft.commit(
            kept.request_id,
            kept.state_payload,
            trainer_checkpoint=saving.trainer_checkpoint,
            metrics=finite,
            runtime=kept.runtime,
        )
        return SavedCheckpoint(self._main_file(checkpoint), checkpoint.step)

    def _main_file(self, checkpoint: Checkpoint) -> str:
        """Return the file a trainer calls its primary one, else the checkpoint's JSON."""
        target = os.path.join(self.store.root, checkpoint.name)
        primary = checkpoint.primary_path
        return os.path.normpath(os.path.join(target, primary)) if primary else target + ".json"


def _require_shared(directory: str, world: World) -> None:
    if not os.path.isdir(directory):
        raise CheckpointError(
            f"process {world.rank} has no directory {directory!r}, which process 0 has made: all "
            "processes of a run need one file system for its checkpoints",
            path=directory,
        )


def _files_of(plan: StatePlan | None, world: World) -> int:
    """Return how many processes write as much as this one."""
    return world.size if plan is not None and plan.is_sharded else 1
