"""Time as the engine sees it: a clock that tests can replace, and one heap for every timer."""

from __future__ import annotations

import heapq
import math
import threading
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.runtime.engine.calls import RunningCall

__all__ = ["SYSTEM_CLOCK", "Alarm", "Clock", "Deadlines", "SystemClock", "Timer", "Timers"]


_ROUNDING_S = 1e-6
_LONGEST_S = 10.0**9
"""Thirty years; whatever is longer, or no number, is as good as never."""
_LONGEST_MS = _LONGEST_S * 1000


class Alarm(Protocol):
    """Wakes one heap of timers."""

    def set(self, when: float) -> None:
        """Ring at `when` on the clock, or earlier. Called from any thread."""
        ...

    def close(self) -> None:
        """Never ring again."""
        ...


class Clock(Protocol):
    """What deadlines and batch windows are measured with. Durations in `Timings` are always real.

    `SYSTEM_CLOCK` is the machine's; `gen_worker.testing.VirtualClock` moves when a test says so.
    """

    def now(self) -> float:
        """Return seconds that only ever grow; any thread, per call."""
        ...

    def time(self) -> float:
        """Return Unix time in seconds."""
        ...

    def alarm(self, ring: Callable[[], float | None]) -> Alarm:
        """Return an alarm that calls `ring`, which answers when it wants to be called next.

        Called once per engine. `ring` must never run in two threads at a time.
        """
        ...


class SystemClock:
    """The machine's clock. An alarm has a thread of its own, started when it is first set."""

    def __init__(self) -> None:
        self.now = time.monotonic
        self.time = time.time

    def alarm(self, ring: Callable[[], float | None]) -> Alarm:
        return _ThreadAlarm(ring)


SYSTEM_CLOCK: Clock = SystemClock()


class _ThreadAlarm:
    """A thread rather than the event loop's timers: a loop that is blocked rings nothing."""

    def __init__(self, ring: Callable[[], float | None]) -> None:
        self._ring = ring
        self._changed = threading.Condition()
        self._when: float | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def set(self, when: float) -> None:
        with self._changed:
            if self._is_closed or (self._when is not None and self._when <= when):
                return
            self._when = when
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="gen-worker-timers", daemon=True
                )
                self._thread.start()
            else:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while self._wait_until_due():
            following = self._ring()
            if following is not None:
                self.set(following)

    def _wait_until_due(self) -> bool:
        with self._changed:
            while not self._is_closed:
                left = None if self._when is None else self._when - time.monotonic()
                if left is not None and left <= 0:
                    self._when = None
                    return True
                self._changed.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
        return False


class Timer:
    """One pending callback."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, timers: Timers, when: float, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call it; a callback that is just being called is not stopped."""
        self._timers.cancel(self)


class Timers:
    """Every timer of one engine. Callbacks run on the clock's thread and must be short."""

    _MIN_DEAD = 64

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # a signal handler may cancel in the thread that holds it
        self._heap: list[tuple[float, int, Timer]] = []
        self._added = 0
        self._dead = 0
        self._alarm = clock.alarm(self._ring)

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def add(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once, `delay_s` from now."""
        # In this order: `min` answers its first argument when the other is not a number.
        timer = Timer(self, self._clock.now() + min(_LONGEST_S, delay_s), callback)
        with self._lock:
            self._added += 1
            heapq.heappush(self._heap, (timer.when, self._added, timer))
            is_first = self._heap[0][2] is timer
        if is_first:
            self._alarm.set(timer.when)
        return timer

    def cancel(self, timer: Timer) -> None:
        with self._lock:
            if timer.callback is None:
                return
            timer.callback = None
            self._dead += 1
            if self._dead > self._MIN_DEAD and self._dead * 2 > len(self._heap):
                self._heap = [entry for entry in self._heap if entry[2].callback is not None]
                heapq.heapify(self._heap)
                self._dead = 0

    def close(self) -> None:
        self._alarm.close()

    def _ring(self) -> float | None:
        for callback in self._take_due():
            try:
                callback()
            except Exception:  # the other timers have other owners
                import logging

                logging.getLogger("gen_worker.runtime").exception("%r failed", callback)
        with self._lock:
            return self._heap[0][0] if self._heap else None

    def _take_due(self) -> list[Callable[[], None]]:
        due: list[Callable[[], None]] = []
        now = self._clock.now()
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                timer = heapq.heappop(self._heap)[2]
                callback, timer.callback = timer.callback, None
                if callback is None:
                    self._dead -= 1
                else:
                    due.append(callback)
        return due


class Deadlines:
    """Cancels the calls whose time is over.

    A call that ends in time, which is nearly every call, costs one comparison: nothing is taken
    out for it. A single timer stands at the earliest moment known, looks at the calls that are
    still here, and moves on to the earliest of theirs.
    """

    def __init__(self, clock: Clock, timers: Timers, calls: Mapping[str, RunningCall]) -> None:
        self._now = clock.now
        self._unix_time = clock.time
        self._timers = timers
        self._calls = calls
        self._next = math.inf

    def set(self, call: RunningCall, timeout_ms: int) -> None:
        """Cancel the call after so many milliseconds, if it is still here."""
        timeout_s = timeout_ms / 1000 if timeout_ms < _LONGEST_MS else _LONGEST_S
        call.timeout_ms = timeout_ms
        call.deadline = self._unix_time() + timeout_s
        call.expires_at = expires_at = self._now() + timeout_s
        # In this order: `_look` resets the moment before it reads the calls.
        if expires_at < self._next:
            self._next = expires_at
            self._timers.add(timeout_s, self._look)

    def _look(self) -> None:
        self._next = math.inf
        now, earliest = self._now(), math.inf
        for call in list(self._calls.values()):
            if call.expires_at is None or call.outcome is not None:
                continue
            if call.expires_at <= now + _ROUNDING_S:
                call.cancel("deadline")
            else:
                earliest = min(earliest, call.expires_at)
        if earliest < self._next:
            self._next = earliest
            self._timers.add(earliest - now, self._look)
