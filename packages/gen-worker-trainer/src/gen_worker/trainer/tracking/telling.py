"""Tells trackers how a run goes, and no longer those that fail."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.errors import TrainingCanceled
from gen_worker.trainer.loop.parts import Part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.trainer.loop.running import Run
    from gen_worker.trainer.tracking.protocol import TrackedRun, Tracker

__all__ = ["Tracking"]

_log = logging.getLogger("gen_worker.trainer")


class Tracking(Part):
    """All trackers of one run."""

    def __init__(self, trackers: Sequence[tuple[str, Tracker]], run: TrackedRun) -> None:
        """Prepare.

        Args:
            trackers: With names to warn of them by.
            run: What they are told at the start.
        """
        self._trackers = list(trackers)
        self._run = run

    def begin(self, run: Run) -> None:
        self._tell("start", self._run)

    def reported(self, run: Run, metrics: Mapping[str, float]) -> None:
        if metrics:
            self._tell("log_metrics", metrics, run.step)

    def sampled(self, path: str, step: int) -> None:
        self._tell("log_sample", path, step)

    def checkpointed(self, path: str, step: int) -> None:
        self._tell("log_checkpoint", path, step)

    def end(self, run: Run, error: BaseException | None) -> None:
        status = "completed" if error is None else "failed"
        self._tell("finish", "canceled" if isinstance(error, TrainingCanceled) else status)

    def _tell(self, what: str, *told: Any) -> None:
        for entry in list(self._trackers):
            name, tracker = entry
            try:
                getattr(tracker, what)(*told)
            except Exception as error:
                self._trackers.remove(entry)
                _log.warning(
                    "tracker %r is told nothing more: its %s raised %s: %s",
                    name,
                    what,
                    type(error).__name__,
                    error,
                )
