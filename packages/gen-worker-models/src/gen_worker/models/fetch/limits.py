"""Limits that all downloads of a process share: bytes per second, and open connections."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.cancel import CancelToken

__all__ = ["BandwidthLimit", "ConnectionLimit"]

_BURST_S = 0.1
_TICK_S = 0.05


class BandwidthLimit:
    """A token bucket. Thread-safe; give the same one to every fetcher."""

    def __init__(self, bytes_per_s: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Make a full bucket.

        Args:
            bytes_per_s: 0 is no limit.
            clock: Seconds.
        """
        self.bytes_per_s = bytes_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock()

    def take(self, size_bytes: int) -> float:
        """Account for bytes that arrived; return the seconds to wait before the next ones."""
        if not self.bytes_per_s:
            return 0.0
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now - _BURST_S)
            self._free_at = start + size_bytes / self.bytes_per_s
            return max(0.0, self._free_at - now)

    @property
    def read_bytes(self) -> int:
        """The most to read at once, so that a slow limit is kept evenly."""
        if not self.bytes_per_s:
            return 1 << 62
        return max(4096, int(self.bytes_per_s * _BURST_S))


class ConnectionLimit:
    """At most so many requests at a time. Thread-safe; give the same one to every fetcher."""

    def __init__(self, count: int) -> None:
        self._slots = threading.BoundedSemaphore(count)

    @contextlib.contextmanager
    def hold(self, token: CancelToken) -> Iterator[None]:
        """Wait for a slot and hold it.

        Raises:
            CanceledError: `token` was canceled first.
        """
        while not self._slots.acquire(timeout=_TICK_S):
            token.raise_if_canceled()
        try:
            yield
        finally:
            self._slots.release()
