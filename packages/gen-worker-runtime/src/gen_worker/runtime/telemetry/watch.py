"""One timer that looks at running requests, however many there are."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.engine import Clock
    from gen_worker.runtime.engine.deadlines import Timers

__all__ = ["GRACE_S", "Watch", "Watched"]

GRACE_S = 0.05
"""A request that ends within this time is not worth more than one event."""
_LOOK_S = 0.1
_ROUNDING_S = 1e-6


class Watched(Protocol):
    """What is watched."""

    began_at: float
    """On the clock."""


W = TypeVar("W", bound=Watched)


class Watch(Generic[W]):
    """Notices requests that take long. For the loop's thread; while there are none, nothing runs.

    A request that ends within the grace costs an entry in a dict: the timer stands at the oldest
    request's moment, and moves on.
    """

    def __init__(
        self,
        clock: Clock,
        timers: Timers,
        *,
        announce: Callable[[W], None],
        look: Callable[[W], None],
    ) -> None:
        """Prepare to watch.

        Args:
            clock: What requests are measured with.
            timers: On that clock.
            announce: Called once for a request that outlives the grace.
            look: Called ten times a second for each of those, until it ends.
        """
        self._now = clock.now
        self._timers = timers
        self._announce = announce
        self._look = look
        self._fresh: dict[str, W] = {}
        self._slow: dict[str, W] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_set = False

    def add(self, request_id: str, watched: W) -> None:
        """Watch a request that began just now."""
        self._fresh[request_id] = watched
        if not self._is_set:
            self._set(GRACE_S)

    def add_slow(self, request_id: str, watched: W) -> None:
        """Watch a request that is announced already."""
        self._slow[request_id] = watched
        if not self._is_set:
            self._set(_LOOK_S)

    def discard(self, request_id: str) -> None:
        """Watch a request no longer."""
        if self._fresh.pop(request_id, None) is None:
            self._slow.pop(request_id, None)

    def _set(self, delay_s: float) -> None:
        self._is_set = True
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._timers.add(max(0.0, delay_s), self._ring)

    def _ring(self) -> None:
        assert self._loop is not None, "it was set on a loop"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tick)

    def _tick(self) -> None:
        self._is_set = False
        try:
            for watched in list(self._slow.values()):
                self._look(watched)
            self._announce_due(self._now() + _ROUNDING_S)
        finally:  # whatever happened to one of them, the others are still watched
            if not self._is_set and (self._fresh or self._slow):
                self._set(self._next_s())

    def _announce_due(self, now: float) -> None:
        for request_id, watched in list(self._fresh.items()):
            if watched.began_at + GRACE_S > now:
                break
            del self._fresh[request_id]
            self._slow[request_id] = watched
            self._announce(watched)

    def _next_s(self) -> float:
        """Return the seconds until something is due."""
        looks_s = _LOOK_S if self._slow else math.inf
        oldest = next(iter(self._fresh.values()), None)
        if oldest is None:
            return looks_s
        return min(looks_s, oldest.began_at + GRACE_S - self._now())
