"""Many moments and one timer of the loop: a heap, in which who needs a moment no more just stays.

Moments are times of the scheduler's own clock, which goes on evenly. The loop's timer only says
when to look at it, at least every so often: after a machine has slept, the loop's own clock is
behind.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Timers"]

_LOOK_AGAIN_S = 10.0


class Timers:
    """Rings for requests. On the loop that made it."""

    def __init__(self, clock: Callable[[], float], ring: Callable[[int, float], None]) -> None:
        """Begin without any.

        Args:
            clock: Unix time.
            ring: Given a seq one of whose moments has come, and the time. It decides what is due.
        """
        self._clock = clock
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int]] = []
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = 0.0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, when: float, seq: int) -> None:
        """Ring for a seq once it is so late."""
        heapq.heappush(self._heap, (when, seq))
        if self._heap[0][0] == when:
            self._arm()

    def replace(self, moments: Iterable[tuple[float, int]]) -> None:
        """Forget all of them for others."""
        self._heap = list(moments)
        heapq.heapify(self._heap)

    def look(self) -> None:
        """Ring for everything whose moment has come."""
        if self._handle is not None:  # it may be set for what is over after this
            self._handle.cancel()
            self._handle = None
        now = self._clock()
        try:
            while self._heap and self._heap[0][0] <= now:
                _, seq = heapq.heappop(self._heap)
                self._ring(seq, now)
        finally:
            self._arm()

    def close(self) -> None:
        """Ring no more."""
        self._is_closed = True
        if self._handle is not None:
            self._handle.cancel()

    def _arm(self) -> None:
        if self._is_closed or not self._heap:
            return
        when = self._heap[0][0]
        if self._handle is not None:
            if self._handle_at <= when:
                return
            self._handle.cancel()
        wait_s = min(max(when - self._clock(), 0.0), _LOOK_AGAIN_S)
        self._handle_at = when
        self._handle = self._loop.call_later(wait_s, self._rung)

    def _rung(self) -> None:
        self._handle = None
        self.look()
