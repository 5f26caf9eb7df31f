"""Keeps what a run produces in directories of this machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.trainer.checkpoints import CheckpointStore, Keeping
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.trainer.checkpoints import Checkpoint
    from gen_worker.trainer.job_file import SampleRequest
    from gen_worker.trainer.steps import StepContext

__all__ = ["LocalArtifactWriter"]


class _Kept(NamedTuple):
    step: int
    state_payload: dict[str, Any]
    metrics: Mapping[str, float]


class LocalArtifactWriter:
    """Checkpoints and samples of one job."""

    def __init__(
        self,
        *,
        checkpoints_dir: str | os.PathLike[str],
        samples_dir: str | os.PathLike[str],
        sample_requests: Sequence[SampleRequest] = (),
        sample_fixed_seed: int | None = None,
        keeping: Keeping | None = None,
        save_runtime: Callable[[Path], Mapping[str, Any]] | None = None,
    ) -> None:
        """Take the directory of checkpoints over.

        Args:
            checkpoints_dir: Made where there is none.
            samples_dir: Made with the first sample.
            sample_requests: What samples are made of.
            sample_fixed_seed: Of samples without a seed of their own.
            keeping: Which checkpoints stay; all by default.
            save_runtime: Writes what the runtime needs to go on into a directory, and returns what
                of it JSON can hold.

        Raises:
            CheckpointsInUseError: Another job writes there.
        """
        self.store = CheckpointStore(os.fspath(checkpoints_dir), keeping)
        self.last_final_checkpoint_path: str | None = None
        self._samples = Samples(os.fspath(samples_dir), sample_requests, sample_fixed_seed)
        self._save_runtime = save_runtime

    def close(self) -> None:
        """Let other jobs have the directory."""
        self.store.close()

    def write_checkpoint(
        self,
        *,
        step: int,
        state_payload: dict[str, Any],
        trainer: Any,
        state: Any,
        ctx: StepContext,
        metrics: Mapping[str, float] | None = None,
    ) -> str:
        """Keep a checkpoint, then remove those that need not stay; return its main file."""
        kept = _Kept(step, state_payload, metrics or {})
        checkpoint = self._save(kept, trainer, state, ctx, is_final=False)
        self.store.retire()
        return self._main_file(checkpoint)

    def write_samples(self, *, step: int, state: Any, ctx: StepContext) -> list[str]:
        return self._samples.write(step, state, ctx)

    def finalize(
        self,
        *,
        state_payload: dict[str, Any],
        trainer: Any,
        state: Any,
        ctx: StepContext,
        step: int = 0,
        metrics: Mapping[str, float] | None = None,
    ) -> str | None:
        """Keep the final checkpoint; return its main file."""
        kept = _Kept(step, state_payload, metrics or {})
        checkpoint = self._save(kept, trainer, state, ctx, is_final=True)
        self.last_final_checkpoint_path = self._main_file(checkpoint)
        return self.last_final_checkpoint_path

    def _save(
        self, kept: _Kept, trainer: Any, state: Any, ctx: StepContext, *, is_final: bool
    ) -> Checkpoint:
        step = kept.step
        with self.store.building(step, is_final=is_final) as draft:
            directory = Path(draft.directory)
            save = getattr(trainer, "save_checkpoint", None)
            result = None
            if callable(save):
                result = save(state=state, step=step, output_dir=directory, final=is_final, ctx=ctx)
            if result is not None and not isinstance(result, Mapping):
                raise CheckpointError(
                    f"save_checkpoint returned {type(result).__name__}, and has to return a "
                    "mapping or None",
                    path=draft.directory,
                )
            runtime = self._save_runtime(directory) if self._save_runtime is not None else None
            finite = {name: value for name, value in kept.metrics.items() if math.isfinite(value)}
            return draft.commit(
                ctx.job.request_id,
                kept.state_payload,
                trainer_checkpoint=result,
                metrics=finite,
                runtime=runtime,
            )

    def _main_file(self, checkpoint: Checkpoint) -> str:
        """Return the file a trainer calls its primary one, else the checkpoint's JSON."""
        target = os.path.join(self.store.root, checkpoint.name)
        primary = checkpoint.primary_path
        return os.path.normpath(os.path.join(target, primary)) if primary else target + ".json"
