"""A run as a person at a terminal sees it. Imports rich."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gen_worker.cli.sizes import size_text
from gen_worker.cli.training.progress import LOSS, RATE, sparkline
from gen_worker.runtime.telemetry.memory import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.cli.training.progress import Progress, Report

__all__ = ["LiveView"]

_PER_SECOND = 4
_PEAK_VRAM = "perf/peak_vram_bytes"
_BAR_COLUMNS = 32


class LiveView:
    """Some lines that are drawn again four times a second, until the run ends."""

    def __init__(self, title: str, progress: Progress) -> None:
        """Begin to draw.

        Args:
            title: Of the job.
            progress: Changed by whoever calls `show`.
        """
        self._title = title
        self._progress = progress
        self._began_at = time.monotonic()
        self._checkpoint_at = 0.0
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=self._drawn,
            console=Console(file=sys.__stderr__),
            refresh_per_second=_PER_SECOND,
        )
        self._live.start()

    def show(self, event: Mapping[str, Any], _report: Report | None, _progress: Progress) -> None:
        with self._lock:
            if event.get("event") == "checkpoint":
                self._checkpoint_at = time.monotonic()

    def close(self) -> None:
        self._live.stop()

    def _drawn(self) -> Group:
        progress = self._progress
        head = Table.grid(padding=(0, 2))
        total = max(progress.max_steps, 1)
        bar = ProgressBar(total=total, completed=progress.step, width=_BAR_COLUMNS)
        share = f"{100 * progress.step // total} %"
        steps = f"step {progress.step}/{progress.max_steps}"
        head.add_row(Text(self._title, "bold"), bar, steps, share)
        rows = Table.grid(padding=(0, 2))
        for name, value in self._facts():
            rows.add_row(Text(name, "dim"), value)
        return Group(head, rows)

    def _facts(self) -> list[tuple[str, str]]:
        progress = self._progress
        rate, left_s = progress.steps_per_s, progress.eta_s
        pace = [f"elapsed {_duration(time.monotonic() - self._began_at)}"]
        if rate is not None:
            pace.insert(0, f"{rate:.3g} steps/s")
        if left_s is not None and progress.end is None:
            pace.append(f"eta {_duration(left_s)}")
        facts = [("pace", "  ".join(pace))]
        if LOSS in progress.metrics:
            loss = _number(progress.metrics[LOSS])
            facts.append(("loss", f"{loss}  {sparkline(list(progress.losses), 40)}"))
        if RATE in progress.metrics:
            facts.append(("learning rate", _number(progress.metrics[RATE])))
        if memory := self._memory():
            facts.append(("memory", memory))
        if progress.checkpoint is not None:
            facts.append(("checkpoint", self._checkpoint(progress.checkpoint)))
        if progress.end is not None:
            facts.append(("end", _end(progress.end)))
        return facts

    def _memory(self) -> str:
        parts = []
        if resident := resident_bytes():
            parts.append(f"{size_text(resident)} RAM")
        if peak := self._progress.metrics.get(_PEAK_VRAM):
            parts.append(f"{size_text(peak)} VRAM at most")
        return "  ".join(parts)

    def _checkpoint(self, event: Mapping[str, Any]) -> str:
        with self._lock:
            age_s = time.monotonic() - self._checkpoint_at
        return f"step {event['step']}, {_duration(age_s)} ago: {_path(event['path'])}"


def _end(event: Mapping[str, Any]) -> str:
    if event["event"] == "completed":
        return f"completed: {_path(event['final_checkpoint'])}"
    return f"{event['event']}: {event.get('error')}"


def _path(path: str | None) -> str:
    """Return a path as it is the shortest from here."""
    return "" if path is None else min(os.path.relpath(path), path, key=len)


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"


def _duration(seconds: float) -> str:
    """Return `42 s`, `3 min 20 s` or `5 h 12 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
