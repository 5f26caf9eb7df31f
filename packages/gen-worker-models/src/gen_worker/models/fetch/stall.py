"""When a download counts as stalled: too few bytes over a whole window of waiting for them."""

from __future__ import annotations

from collections import deque

__all__ = ["StallWatch"]

_SAMPLES = 16


class StallWatch:
    """Watches one request. Time that the reader spends elsewhere is not held against the peer."""

    def __init__(self, *, window_s: float, min_bytes_per_s: float) -> None:
        """Start watching.

        Args:
            window_s: 0 never stalls.
            min_bytes_per_s: What must arrive over the window.
        """
        self._window_s = window_s
        self._min_bytes = min_bytes_per_s * window_s
        self._waited_s = 0.0
        self._bytes = 0
        self._samples: deque[tuple[float, int]] = deque([(0.0, 0)])

    def has_stalled(self, waited_s: float, size_bytes: int) -> bool:
        """Account for one read; return whether the window was too slow.

        Args:
            waited_s: How long the read took.
            size_bytes: What it brought.
        """
        self._waited_s += waited_s
        self._bytes += size_bytes
        if not self._window_s:
            return False
        if self._waited_s - self._samples[-1][0] >= self._window_s / _SAMPLES:
            self._samples.append((self._waited_s, self._bytes))
        if self._waited_s < self._window_s:
            return False
        oldest = self._waited_s - self._window_s
        while len(self._samples) > 1 and self._samples[1][0] <= oldest:
            self._samples.popleft()
        return self._bytes - self._samples[0][1] < self._min_bytes
