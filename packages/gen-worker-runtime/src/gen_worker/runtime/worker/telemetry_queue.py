"""Events and diagnostics that wait to be written, and which requests they are about."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.runtime.wire import DiagnosticLog, WorkerEvent

__all__ = ["TelemetryQueue"]


class TelemetryQueue:
    """Bounded; the oldest goes for the newest. Any thread."""

    def __init__(self, max_waiting: int) -> None:
        """Begin with none.

        Args:
            max_waiting: How many wait at most.
        """
        self._max_waiting = max_waiting
        self._waiting: deque[WorkerEvent | DiagnosticLog] = deque()
        self._unwritten: dict[str, int] = {}
        """By request, how many wait or are just being written."""
        self._lock = threading.Lock()
        self.shed = 0
        """How many were dropped, ever."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: WorkerEvent | DiagnosticLog) -> bool:
        """Take one; False when an older one was dropped for it."""
        with self._lock:
            has_room = len(self._waiting) < self._max_waiting
            if not has_room:
                self.shed += 1
                self._leave(request_of(self._waiting.popleft()))
            self._waiting.append(event)
            if request_id := request_of(event):
                self._unwritten[request_id] = self._unwritten.get(request_id, 0) + 1
        return has_room

    def next(self) -> WorkerEvent | DiagnosticLog | None:
        """Return the oldest, which then is being written."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def written(self, request_id: str, *, is_lost: bool = False) -> None:
        """Note that one was written, or could not be."""
        with self._lock:
            self.shed += is_lost
            self._leave(request_id)

    def is_about(self, request_id: str) -> bool:
        """Return whether one of this request is not written yet."""
        return request_id in self._unwritten

    def _leave(self, request_id: str) -> None:
        count = self._unwritten.pop(request_id, 0)
        if count > 1:
            self._unwritten[request_id] = count - 1


def request_of(event: WorkerEvent | DiagnosticLog) -> str:
    """Return the request that an event is about; empty when it is about the worker."""
    return getattr(event, "request_id", "")
