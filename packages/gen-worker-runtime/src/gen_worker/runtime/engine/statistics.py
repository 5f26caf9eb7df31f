"""What an engine has done so far, for people, health checks and tests."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from gen_worker.events import Failed, Result

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken

__all__ = ["Counters", "EngineStatistics", "Latency"]

_REMEMBERED = 1000


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """From the cancel to the handler's end, over the last 1,000 canceled calls; milliseconds."""

    count: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class EngineStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One look at an engine."""

    running: int
    """Calls inside their handler, or past it and not yet answered."""
    queued: int
    """Calls waiting for files, models, a slot or a thread."""
    completed: int
    failed: int
    canceled: int
    """By callers, deadlines and shutdown; not counted as failed."""
    stuck_threads: int
    """Handlers that were reported as stuck and have not ended yet."""
    threads: int
    """Threads for blocking handlers, those that are stuck not counted."""
    refused: int
    """Calls refused as overloaded."""
    shed_events: int
    """Telemetry dropped because its reader was behind."""
    cancel_latency: Latency


class Counters:
    """The running totals behind `EngineStatistics`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancels_ms: deque[float] = deque(maxlen=_REMEMBERED)
        self._canceled_handlers = 0
        self.completed = 0
        self.failed = 0
        self.canceled = 0
        self.refused = 0
        self.shed_events = 0

    def count(self, outcome: Result | Failed) -> None:
        with self._lock:
            if isinstance(outcome, Result):
                self.completed += 1
            elif outcome.failure.error_type == "canceled":
                self.canceled += 1
            else:
                self.failed += 1

    def count_refused(self) -> None:
        with self._lock:
            self.refused += 1

    def count_shed(self) -> None:
        with self._lock:
            self.shed_events += 1

    def count_stopped(self, token: CancelToken) -> None:
        """Note that the handler of a canceled call has ended just now."""
        if token.canceled_at is not None:
            with self._lock:
                self._canceled_handlers += 1
                self._cancels_ms.append((time.perf_counter() - token.canceled_at) * 1e3)

    @property
    def cancel_latency(self) -> Latency:
        with self._lock:
            ordered = sorted(self._cancels_ms)
            count = self._canceled_handlers
        if not ordered:
            return Latency()
        last = len(ordered) - 1
        return Latency(
            count=count,
            p50_ms=ordered[last // 2],
            p99_ms=ordered[round(last * 0.99)],
            max_ms=ordered[-1],
        )
