"""The events of a run on their way from where they happen to where they are shown."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.cli.training.progress import Progress, Report

__all__ = ["Follower", "View"]

_QUIET_S = 0.1
_NOTHING: Mapping[str, Any] = {}


class View(Protocol):
    """Shows a run. Called by one thread."""

    def show(self, event: Mapping[str, Any], report: Report | None, progress: Progress) -> None:
        """Take an event, or none, and a step's metrics, if they are whole by now."""
        ...

    def close(self) -> None: ...


class Follower:
    """Takes events from the thread that trains, which never waits for whoever reads them."""

    def __init__(self, view: View, progress: Progress, *, on_start: Callable[[], object]) -> None:
        """Begin to show.

        Args:
            view: Closed in the end.
            progress: Of the run.
            on_start: Called when it has begun.
        """
        self._view = view
        self._progress = progress
        self._on_start = on_start
        self._events: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._show_all, name="gen-worker-train-view")
        self._thread.start()

    def take(self, event: Mapping[str, Any]) -> None:
        """Take an event; the observer of a `LocalTrainingReporter`."""
        self._events.put(event)

    def close(self) -> None:
        """Show what is left."""
        self._events.put(None)
        self._thread.join()

    def _show_all(self) -> None:
        try:
            while self._show_next():
                pass
        finally:
            self._view.close()

    def _show_next(self) -> bool:
        try:
            event = self._events.get(timeout=_QUIET_S)
        except queue.Empty:
            self._settle()
            return True
        if event is None:
            self._settle()
            return False
        if event.get("event") == "started":
            self._on_start()
        self._view.show(event, self._progress.take(event), self._progress)
        return True

    def _settle(self) -> None:
        report = self._progress.settle()
        if report is not None:
            self._view.show(_NOTHING, report, self._progress)
