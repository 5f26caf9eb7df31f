"""How long one thread may keep the GIL while another waits for it."""

from __future__ import annotations

import sys
import threading

__all__ = ["SWITCH_INTERVAL", "SwitchInterval"]


class SwitchInterval:
    """Shortens the interpreter's switch interval for as long as somebody needs it short.

    A cancel reaches a busy Python thread only when the canceling thread gets the GIL, which takes
    up to 5 ms per hand-over by default and is nearly all of the latency. The setting belongs to
    the whole process, so there is one of these, and it puts back what it found.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may cancel in the thread that holds it
        self._wanted: dict[int, float] = {}
        self._original_s = 0.0

    def hold(self, holder: object, interval_s: float) -> None:
        """Keep the interval at `interval_s` or below until `holder` releases it."""
        with self._lock:
            if not self._wanted:
                self._original_s = sys.getswitchinterval()
            if self._wanted.get(id(holder)) != interval_s:
                self._wanted[id(holder)] = interval_s
                self._apply()

    def release(self, holder: object) -> None:
        """Let go; unknown holders are ignored."""
        with self._lock:
            if self._wanted.pop(id(holder), None) is not None:
                self._apply()

    def _apply(self) -> None:
        sys.setswitchinterval(min([self._original_s, *self._wanted.values()]))


SWITCH_INTERVAL = SwitchInterval()
