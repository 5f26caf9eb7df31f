"""Ends a run that does not get better."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.loop.parts import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.trainer.job_options import EarlyStop
    from gen_worker.trainer.loop.running import Run

__all__ = ["Patience"]

_log = logging.getLogger("gen_worker.trainer")


class Patience(Part):
    """Looks at one metric each time it is reported. Of several processes, the first one has it."""

    name = "early_stop"

    def __init__(self, wanted: EarlyStop) -> None:
        self._wanted = wanted
        self._best: float | None = None
        self._worse = 0
        """Reports in a row that were no better."""

    def begin(self, run: Run) -> None:
        """Stop at once if that was decided before the run was interrupted."""
        self._decide(run)

    def reported(self, run: Run, metrics: Mapping[str, float]) -> None:
        value = metrics.get(self._wanted.metric)
        if value is None:
            return
        if self._is_better(value):
            self._best, self._worse = value, 0
        else:
            self._worse += 1
            self._decide(run)

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self._best is None:
            return True
        gain = self._best - value if self._wanted.mode == "min" else value - self._best
        return gain > self._wanted.min_delta

    def _decide(self, run: Run) -> None:
        wanted = self._wanted
        if self._worse >= wanted.patience:
            why = f"{wanted.metric} was not better than {self._best} {self._worse} times in a row"
            _log.warning("training ends at step %d: %s", run.step, why)
            run.stop(why)

    def kept(self) -> Any:
        return {"best": self._best, "worse": self._worse}

    def restore(self, kept: Any) -> None:
        self._best, self._worse = kept["best"], kept["worse"]
