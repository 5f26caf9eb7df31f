"""Profiles some steps with the profiler of torch."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.loop.parts import Part

if TYPE_CHECKING:
    from gen_worker.trainer.job_options import ProfileWindow
    from gen_worker.trainer.loop.running import Run

__all__ = ["Profiling"]

_log = logging.getLogger("gen_worker.trainer")


class Profiling(Part):
    """Writes a trace that browsers show (`chrome://tracing`, Perfetto)."""

    def __init__(self, window: ProfileWindow, directory: str) -> None:
        """Prepare.

        Args:
            window: Which steps.
            directory: Made when there is something to write.
        """
        self._first = window.start_step
        self._last = window.start_step + window.steps - 1
        self._directory = directory
        self._profiler: Any = None

    def before_step(self, run: Run) -> None:
        if run.attempted == self._first:
            self._profiler = _profiler(run.ctx.device)
            self._profiler.start()

    def after_step(self, run: Run) -> None:
        if self._profiler is not None and run.attempted >= self._last:
            self._write()

    def end(self, run: Run, error: BaseException | None) -> None:
        """Keep what there is of a window that the run has ended in."""
        if self._profiler is not None:
            self._write()

    def _write(self) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        os.makedirs(self._directory, exist_ok=True)
        path = os.path.join(self._directory, f"steps-{self._first}-{self._last}.json")
        profiler.export_chrome_trace(path)
        _log.info("steps %d to %d are profiled in %r", self._first, self._last, path)


def _profiler(device: str) -> Any:
    try:
        from torch import profiler  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise RuntimeError(
            "steps are profiled with torch: pip install 'gen-worker[torch]', or leave `profile` out"
        ) from None
    activities = [profiler.ProfilerActivity.CPU]
    if device.startswith("cuda"):
        activities.append(profiler.ProfilerActivity.CUDA)
    return profiler.profile(activities=activities)
