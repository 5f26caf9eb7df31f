"""Tells everybody who wants to know: the reporter, the uploader, and the parts of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.trainer.loop.parts import points
from gen_worker.trainer.loop.ranks import Unheard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.trainer.distributed.world import World
    from gen_worker.trainer.loop.parts import Part
    from gen_worker.trainer.loop.running import Run
    from gen_worker.trainer.protocols import ArtifactUploader, TrainingReporter

__all__ = ["Reporting"]


class Reporting:
    """What one process says of a run; one that is not the first says nothing."""

    def __init__(
        self,
        reporter: TrainingReporter,
        uploader: ArtifactUploader | None,
        parts: Sequence[Part],
        world: World,
    ) -> None:
        """Prepare.

        Args:
            reporter: Told how it goes.
            uploader: Sends what there is; None keeps it here.
            parts: Told, too.
            world: The processes that train together.
        """
        self.reporter: Any = reporter if world.is_first else Unheard(reporter)
        self._uploader = uploader if world.is_first else None
        self._is_first = world.is_first
        self._sources = points(parts, "report")
        self._reported = points(parts, "reported")
        self._checkpointed = points(parts, "checkpointed")
        self._sampled = points(parts, "sampled")
        self._moved = points(parts, "moved")
        self._phase = getattr(self.reporter, "phase", None)

    def phase(self, phase: str, step: int) -> None:
        """Say what is begun."""
        if callable(self._phase):
            self._phase(phase=phase, step=step)

    def moved(self, run: Run) -> None:
        """Say that the run goes on, where no step ends and nothing is reported."""
        for moved in self._moved:
            moved(run)

    def step(self, run: Run) -> None:
        """Report the metrics of the last step."""
        metrics = dict(run.metrics)
        for source in self._sources:
            metrics |= source(run)
        self.metrics(run, metrics)

    def metrics(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Report metrics of the completed step."""
        for name, value in metrics.items():
            self.reporter.metric(name=name, value=value, step=run.step)
        if metrics and self._uploader is not None:
            self._uploader.upload_metrics(metrics=metrics, step=run.step)
        for reported in self._reported:
            reported(run, metrics)

    def checkpoint(self, path: str, step: int) -> None:
        self.reporter.checkpoint(path=path, step=step)
        if self._uploader is not None:
            self._uploader.upload_checkpoint(local_path=path, step=step)
        if self._is_first:
            for checkpointed in self._checkpointed:
                checkpointed(path, step)

    def sample(self, path: str, step: int) -> None:
        self.reporter.sample(path=path, step=step)
        if self._uploader is not None:
            self._uploader.upload_sample(local_path=path, step=step)
        for sampled in self._sampled:
            sampled(path, step)
