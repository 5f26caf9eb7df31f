"""Colour and progress bars, for a person at a terminal. Imports rich only when it draws."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from gen_worker.cli.sizes import size_text
from gen_worker.events import Emitted, Log, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID
    from rich.text import Text

    from gen_worker.events import Telemetry

__all__ = ["TerminalReports", "highlight_json", "styled"]

_BAR_AFTER_S = 1.0
_DOWNLOAD = "model.download."
_LEVEL_STYLES = {"debug": "dim", "warning": "yellow", "warn": "yellow", "error": "bold red"}


def highlight_json(text: str) -> str:
    """Return JSON with colours; the text itself stays as it is, line breaks included."""
    from rich.highlighter import JSONHighlighter

    return _draw(JSONHighlighter()(text))


def styled(text: str, style: str) -> str:
    """Return `text` in a style of rich, such as `bold red`."""
    from rich.text import Text

    return _draw(Text(text, style))


def _draw(text: Text) -> str:
    import io

    from rich.console import Console

    drawn = io.StringIO()
    # Far wider than any line: breaking lines is the terminal's business.
    Console(file=drawn, force_terminal=True, soft_wrap=True, width=10_000).print(text, end="")
    return drawn.getvalue()


class TerminalReports:
    """Lines for what the author logs and emits, a bar for work over a second."""

    def __init__(self) -> None:
        # Reentrant: a log line is printed through the bar, which may draw itself meanwhile.
        self._lock = threading.RLock()
        self._console: Console | None = None
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._label = ""
        self._started_at = 0.0
        self._progress: float | None = None
        self._stage = ""

    def emit(self, event: Telemetry) -> None:
        with self._lock:
            match event:
                case Progress():
                    self._progress = event.progress
                    self._stage = event.stage or self._stage
                    self._draw()
                case Log():
                    style = _LEVEL_STYLES.get(event.level.lower(), "")
                    self._say(f"{event.level}: {event.message}", style)
                case Emitted(type="request.upload_progress"):
                    self._follow_upload(event.payload)
                case Emitted() if _DOWNLOAD in event.type:
                    self._follow(event.type.rpartition(".")[2], event.payload)
                case Emitted():
                    self._say(f"{event.type} {_compact(event.payload)}", "dim")
                case _:
                    pass

    def _follow(self, what: str, facts: dict[str, Any]) -> None:
        """Let the bar be a download's while there is one."""
        self._progress, self._stage = None, ""
        if what == "progress":
            done, total = facts["bytes_downloaded"], facts["bytes_total"]
            self._progress = facts["percent_complete"] / 100
            self._stage = f"{facts['model_id']} {size_text(done)} of {size_text(total)}"
        elif what == "started":
            self._stage = f"{facts['model_id']} {size_text(facts['estimated_total_bytes'])}"
        self._draw()

    def _follow_upload(self, facts: dict[str, Any]) -> None:
        """Let the bar be an upload's while there is one."""
        done, total, ref = facts["bytes_uploaded"], facts["bytes_written"], facts["ref"]
        is_under_way = facts["stage"] == "stream_upload" and total > 0
        self._progress = min(done / total, 1.0) if is_under_way else None
        name = ref.rpartition("/outputs/")[2]
        sizes = f"{size_text(done)} of {size_text(total)}"
        self._stage = f"{name} {sizes}" if is_under_way else ""
        self._draw()

    @contextlib.contextmanager
    def showing(self, label: str) -> Iterator[None]:
        self._label, self._started_at = label, time.monotonic()
        timer = threading.Timer(_BAR_AFTER_S, self._draw)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._label = ""
                self._remove()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        with self._lock:
            was_shown = self._bar is not None
            self._remove()
            try:
                yield
            finally:
                if was_shown:
                    self._draw()

    def _draw(self) -> None:
        """Show or move the bar, once the call has run long enough."""
        with self._lock:
            if not self._label or time.monotonic() - self._started_at < _BAR_AFTER_S:
                return
            if self._bar is None:
                self._bar = _new_bar(self._get_console())
                self._task = self._bar.add_task(self._label, total=None)
                self._bar.start()
            assert self._task is not None, "made with the bar"
            total = None if self._progress is None else 1.0
            text = f"{self._label} {self._stage}".strip()
            done = self._progress or 0.0
            self._bar.update(self._task, description=text, total=total, completed=done)

    def _remove(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, text: str, style: str) -> None:
        self._get_console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def _get_console(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=sys.__stderr__)
        return self._console


def _new_bar(console: Console) -> Bar:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Bar(*columns, TimeElapsedColumn(), console=console, transient=True)


def _compact(payload: dict[str, Any]) -> str:
    import msgspec

    return msgspec.json.Encoder(enc_hook=str).encode(payload).decode()
