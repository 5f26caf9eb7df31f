"""What the loop needs of a trainer and of its surroundings. The first is all an author writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.trainer.steps import StepContext

__all__ = [
    "ArtifactUploader",
    "ArtifactWriter",
    "PreparedBatchT",
    "RawBatchT",
    "StateT",
    "TrainerPlugin",
    "TrainingReporter",
]

# For authors who write their trainers generic.
StateT = TypeVar("StateT")
RawBatchT = TypeVar("RawBatchT")
PreparedBatchT = TypeVar("PreparedBatchT")


@runtime_checkable
class TrainerPlugin(Protocol):
    """A trainer: what is learned, and how. The runtime does everything around it.

    Optional besides:
    `load_batch(raw_batch, epoch, ctx)`: called in threads, for batches of the next steps, as far as
    `dataset.readahead` says; `prepare_batch` gets what it returns, None leaves a batch out.
    `optimizer_step(state, ctx)`: where there is one, `train_step` only adds gradients up, for as
    many batches as `hyperparams.gradient_accumulation_steps` says, and this makes one step of
    them; it returns metrics, a `StepResult` or None. With `nan_policy` "skip",
    `skip_step(state, ctx)` is called in its place where a loss is not finite, and drops what was
    added up; without it, `zero_grad` of the optimizers of a `TrainingState`.
    `eval_step(batch, state, ctx)`, which learns nothing and returns a `StepResult`;
    `eval_begin(state, ctx)` and `eval_end(state, ctx)` are called around a whole evaluation; the
    latter may return metrics of its own, where a mean over batches would not do.
    `save_checkpoint(*, state, step, output_dir, final, ctx)`, which writes files into `output_dir`
    and returns a mapping or None; `load_checkpoint(*, state, checkpoint_dir, payload, ctx)`, which
    reads them.
    On the state, or as a key of a mapping, `generate_sample`.
    """

    def setup(self, ctx: StepContext) -> object: ...
    def configure(self, ctx: StepContext) -> Any:
        """Return the state that every other hook gets, of any type."""
        ...

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        """Turn what the data source gives into what a step takes."""
        ...

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> Any:
        """Learn from a batch; return a `StepResult`, or anything with `metrics`."""
        ...

    def state_dict(self, state: Any) -> dict[str, Any]:
        """Return what JSON can hold of the state; tensors belong into `save_checkpoint`."""
        ...

    def load_state_dict(self, state: Any, payload: dict[str, Any], ctx: StepContext) -> object: ...


class TrainingReporter(Protocol):
    """Told how a run goes.

    Optional besides: `phase(*, phase, step)`, told what is begun.
    """

    def started(self, *, request_id: str) -> object: ...
    def metric(self, *, name: str, value: float, step: int) -> object: ...
    def checkpoint(self, *, path: str, step: int) -> object: ...
    def sample(self, *, path: str, step: int) -> object: ...
    def completed(self, *, step: int, final_checkpoint: str | None) -> object: ...
    def failed(self, *, step: int, error: str) -> object: ...
    def is_canceled(self) -> bool:
        """Tell whether the run is to stop; `cancel_reason`, if there is one, says why."""
        ...


class ArtifactWriter(Protocol):
    """Keeps checkpoints and samples.

    Optional besides: `begin_checkpoint`, called in place of `write_checkpoint` with `metrics` and
    `runtime`, which returns while the checkpoint is on its way; and
    `ended_checkpoints(*, wait)`, asked at every step for the paths and steps of those that have
    arrived.
    """

    def write_checkpoint(
        self,
        *,
        step: int,
        state_payload: dict[str, Any],
        trainer: Any,
        state: Any,
        ctx: StepContext,
    ) -> str:
        """Keep a checkpoint and return the path of its main file."""
        ...

    def write_samples(self, *, step: int, state: Any, ctx: StepContext) -> list[str]:
        """Make samples and return their paths."""
        ...

    def finalize(
        self, *, state_payload: dict[str, Any], trainer: Any, state: Any, ctx: StepContext
    ) -> str | None:
        """Keep the final checkpoint and return the path of its main file."""
        ...


class ArtifactUploader(Protocol):
    """Sends what was kept to where it belongs. Whoever wants it to be retried retries itself.

    Optional besides: `upload_terminal(*, status, step, final_checkpoint, error="")`.
    """

    def upload_checkpoint(self, *, local_path: str, step: int) -> Mapping[str, Any]: ...
    def upload_sample(self, *, local_path: str, step: int) -> Mapping[str, Any]: ...
    def upload_metrics(self, *, metrics: Mapping[str, float], step: int) -> Mapping[str, Any]: ...
