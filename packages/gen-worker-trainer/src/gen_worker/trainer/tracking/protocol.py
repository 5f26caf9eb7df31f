"""What a tracker is, and what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TrackedRun", "Tracker", "TrackingStatus"]

TrackingStatus = Literal["completed", "failed", "canceled"]


class TrackedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The run that begins, or goes on."""

    request_id: str
    trainer: str
    """Import path."""
    hyperparams: dict[str, Any]
    directory: str
    """Where a tracker may write, below a folder of its own; the same when a run is resumed."""
    start_step: int
    """Completed steps. What was told of later ones by an attempt that was interrupted no longer
    counts."""
    max_steps: int


class Tracker(Protocol):
    """Made once for each attempt, from the job's `trackers`; told from the thread that trains.

    One that raises is told nothing more, and a warning says so: the run goes on. One of another
    service takes few lines:

        class Wandb:
            def __init__(self, project="training"):
                self.project = project

            def start(self, run):
                import wandb

                self.run = wandb.init(
                    project=self.project, id=run.request_id, resume="allow", config=run.hyperparams
                )

            def log_metrics(self, metrics, step):
                self.run.log(dict(metrics), step=step)

            def log_sample(self, path, step):
                if path.endswith(".png"):
                    import wandb

                    self.run.log({"samples": wandb.Image(path)}, step=step)

            def log_checkpoint(self, path, step):
                self.run.summary["checkpoint"] = path

            def finish(self, status):
                self.run.finish(exit_code=0 if status == "completed" else 1)

    in the job spec: `"trackers": [{"tracker": "tracking:Wandb", "project": "colours"}]`.
    """

    def start(self, run: TrackedRun) -> object:
        """Begin; called once, before anything else."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> object:
        """Take in what was reported at a step, numbers that are not finite too."""
        ...

    def log_sample(self, path: str, step: int) -> object:
        """Take in a file of a sample: an image, or JSON with its prompt."""
        ...

    def log_checkpoint(self, path: str, step: int) -> object: ...
    def finish(self, status: TrackingStatus) -> object:
        """End; called once unless the process is killed."""
        ...
