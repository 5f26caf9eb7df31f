"""Progress of a download as events: rarely enough for any log, often enough for any person."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DownloadProgress", "ProgressThrottle"]

_MIN_GAP_S = 1.0
_MAX_GAP_S = 5.0
_STEP_PERCENT = 10.0
_MAX_EVENTS = 25
_WEIGHT = 0.3


class DownloadProgress(NamedTuple):
    """Payload of the event `model.download.progress`."""

    bytes_downloaded: int
    bytes_total: int
    percent_complete: float
    """One decimal."""
    eta_remaining_seconds: float
    """-1 while the throughput is unknown."""
    throughput_bytes_per_sec: float


class ProgressThrottle:
    """Decides which progress becomes an event, and smooths the throughput it reports.

    An event comes at least 1 s after the one before, and only after a step of 10 % or 5 s; at most
    25 in all, none while the total is unknown.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at = self._seen_at = clock()
        self._told_percent = 0.0
        self._told_count = 0
        self._seen_bytes: int | None = None
        self._rate: float | None = None

    def update(self, bytes_done: int, bytes_total: int | None) -> DownloadProgress | None:
        """Take note of the bytes there are; return the event, if one is due."""
        now = self._clock()
        self._measure(now, bytes_done)
        if not bytes_total or self._told_count >= _MAX_EVENTS:
            return None
        percent = round(min(100.0, 100.0 * bytes_done / bytes_total), 1)
        gap_s, step = now - self._told_at, percent - self._told_percent
        if gap_s < _MIN_GAP_S or (step < _STEP_PERCENT and gap_s < _MAX_GAP_S):
            return None
        self._told_at, self._told_percent = now, percent
        self._told_count += 1
        left, rate = max(0, bytes_total - bytes_done), self._rate or 0.0
        eta_s = round(left / rate, 1) if rate > 0 else -1.0
        return DownloadProgress(bytes_done, bytes_total, percent, eta_s, round(rate, 1))

    def _measure(self, now: float, bytes_done: int) -> None:
        """Average the throughput, one second at a time; what was there at first does not count."""
        if self._seen_bytes is None:
            self._seen_bytes, self._seen_at = bytes_done, now
            return
        elapsed_s = now - self._seen_at
        if elapsed_s < _MIN_GAP_S:
            return
        rate = max(0, bytes_done - self._seen_bytes) / elapsed_s
        self._rate = rate if self._rate is None else _WEIGHT * rate + (1 - _WEIGHT) * self._rate
        self._seen_bytes, self._seen_at = bytes_done, now
