"""Idle connections, kept for the next request to the same origin."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.net.connection import Connection

__all__ = ["Pool"]


class Pool:
    """Idle connections by origin. Thread-safe."""

    def __init__(
        self,
        *,
        max_idle: int = 16,
        idle_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty pool.

        Args:
            max_idle: Connections kept per origin.
            idle_s: How long one may wait; servers close theirs after a while, unannounced.
            clock: Seconds.
        """
        self._max_idle = max_idle
        self._idle_s = idle_s
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: dict[str, list[tuple[float, Connection]]] = {}
        self._is_closed = False

    def take(self, key: str) -> Connection | None:
        """Return the connection that was used last, if one is alive."""
        while True:
            with self._lock:
                idle = self._idle.get(key)
                if not idle:
                    return None
                since, connection = idle.pop()
            if self._clock() - since <= self._idle_s and not connection.is_stale:
                connection.is_reused = True
                return connection
            connection.close()

    def put(self, key: str, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._lock:
            idle = self._idle.setdefault(key, [])
            surplus = [connection] if self._is_closed else []
            if not self._is_closed:
                idle.append((self._clock(), connection))
                surplus = [old for _, old in idle[: -self._max_idle]]
                del idle[: -self._max_idle]
        for old in surplus:
            old.close()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            connections = [one for idle in self._idle.values() for _, one in idle]
            self._idle.clear()
        for connection in connections:
            connection.close()
