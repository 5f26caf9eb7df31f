"""What an engine has done so far, for people, health checks and tests."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from gen_worker.events import Failed, Result

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken

__all__ = ["Counters", "EngineStatistics", "Latency", "Tally"]

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


class Tally:
    """A total that any thread may add one to; a lock would cost ten times as much."""

    __slots__ = ("_count", "add")

    def __init__(self) -> None:
        self._count = itertools.count()
        self.add = self._count.__next__

    @property
    def value(self) -> int:
        return int(repr(self._count)[len("count(") : -1])


class Counters:
    """The running totals behind `EngineStatistics`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancels_ms: deque[float] = deque(maxlen=_REMEMBERED)
        self._canceled_handlers = 0
        self.completed = Tally()
        self.failed = Tally()
        self.canceled = Tally()
        self.refused = Tally()
        self.shed_events = Tally()

    def count(self, outcome: Result | Failed) -> None:
        if isinstance(outcome, Result):
            self.completed.add()
        elif outcome.failure.error_type == "canceled":
            self.canceled.add()
        else:
            self.failed.add()

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
