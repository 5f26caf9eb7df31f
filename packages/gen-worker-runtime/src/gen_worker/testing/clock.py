"""Time that moves when a test says so."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime import Alarm

__all__ = ["VirtualClock"]


class VirtualClock:
    """A `gen_worker.runtime.Clock` for tests of deadlines, grace periods and batch windows.

    Only the engine's own waiting follows it: a handler's `time.sleep` takes as long as ever.
    """

    def __init__(self, start: float = 1_000_000_000.0) -> None:
        """Begin at a Unix time; nothing elapses until `advance`."""
        self._start = start
        self._now = 0.0
        self._advanced_ns = 0  # whole numbers, so that twice 50 ms are 100 ms
        self._alarms: list[_VirtualAlarm] = []
        self._advancing = threading.Lock()

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._now} s>"

    def now(self) -> float:
        return self._now

    def time(self) -> float:
        return self._start + self._now

    def alarm(self, ring: Callable[[], float | None]) -> Alarm:
        alarm = _VirtualAlarm(ring)
        self._alarms.append(alarm)
        return alarm

    def advance(self, seconds: float) -> None:
        """Let time pass, and run in this thread what becomes due, each at its own moment.

        What that sets off on an event loop or in a thread has begun when this returns, and may not
        have ended: wait for the call.
        """
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds!r}")
        with self._advancing:
            self._advanced_ns += round(seconds * 1e9)
            while True:
                due = [alarm for alarm in self._alarms if alarm.when is not None]
                first = min(due, key=lambda alarm: alarm.when or 0.0, default=None)
                if first is None or first.when is None:
                    break
                if round(first.when * 1e9) > self._advanced_ns:
                    break
                self._now = max(self._now, first.when)
                first.ring()
            self._now = self._advanced_ns / 1e9


class _VirtualAlarm:
    def __init__(self, ring: Callable[[], float | None]) -> None:
        self._ring = ring
        self.when: float | None = None
        self._is_closed = False

    def set(self, when: float) -> None:
        if not self._is_closed and (self.when is None or when < self.when):
            self.when = when

    def close(self) -> None:
        self._is_closed, self.when = True, None

    def ring(self) -> None:
        self.when = None
        following = self._ring()
        if following is not None:
            self.set(following)
