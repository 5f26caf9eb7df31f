"""How far a conversion is: a bar at a terminal, JSON lines for a program."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from gen_worker.cli.converting.telling import time_text
from gen_worker.cli.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.cli.hub_progress import TransferBar
    from gen_worker.conversion.convert import Progress

__all__ = ["ConversionBar", "SendingLines"]

_EVERY_S = 0.5


class ConversionBar:
    """Shows bytes, rate and time left, not more than twice a second."""

    def __init__(
        self,
        tell: Callable[[str, dict[str, Any]], None] | None,
        *,
        sending: TransferBar | None = None,
    ) -> None:
        """Choose who is told.

        Args:
            tell: Takes `convert.progress` events; None shows a bar where a person looks.
            sending: Knows what is sent meanwhile; None where nothing is.
        """
        self._tell = tell
        self._sending = sending
        self._started_at = time.monotonic()
        self._next_at = 0.0
        self._first_bytes: int | None = None
        self._reports: Any = None
        self._is_over = False

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        if self._tell is not None or sys.__stderr__ is None or not os.isatty(2):
            yield
            return
        from gen_worker.cli.terminal import TerminalReports

        self._reports = TerminalReports()
        with self._reports.showing("convert"):
            yield

    def follow(self, progress: Progress) -> None:
        """Take one report."""
        now = time.monotonic()
        if self._first_bytes is None:  # what an earlier run had done is no work of this one
            self._first_bytes = progress.done_bytes
        is_last = progress.done_bytes >= progress.total_bytes
        if self._is_over or (now < self._next_at and not is_last):
            return
        self._is_over = is_last
        self._next_at = now + _EVERY_S
        done = progress.done_bytes - self._first_bytes
        rate = done / max(now - self._started_at, 1e-3)
        left_s = (progress.total_bytes - progress.done_bytes) / rate if rate > 0 else None
        if self._tell is not None:
            facts = {name: getattr(progress, name) for name in progress.__struct_fields__}
            if self._sending is not None:
                facts["sent_bytes"] = self._sending.sent_bytes
            self._tell("convert.progress", {**facts, "bytes_per_s": rate, "eta_s": left_s})
        elif self._reports is not None:
            self._draw(progress, rate, left_s)

    def _draw(self, progress: Progress, rate: float, left_s: float | None) -> None:
        from gen_worker.events import Progress as Report

        where = "/".join(filter(None, (progress.flavor, progress.component)))
        size = f"{size_text(progress.done_bytes)} of {size_text(progress.total_bytes)}"
        left = f", {time_text(left_s)} left" if left_s is not None else ""
        share = progress.done_bytes / max(progress.total_bytes, 1)
        stage = f"{where} {size}, {size_text(rate)}/s{left}"
        if progress.calibrated is not None:
            stage = f"{where} {size}, calibration {progress.calibrated:.0%}"
        if self._sending is not None:
            stage += f"; {size_text(self._sending.sent_bytes)} sent"
        self._reports.emit(Report(request_id="", progress=share, at=time.time(), stage=stage))


class SendingLines:
    """Tells a program how much was sent, not more than twice a second, once `is_on`."""

    def __init__(self, sending: TransferBar, tell: Callable[[str, dict[str, Any]], None]) -> None:
        self._sending = sending
        self._tell = tell
        self._lock = threading.Lock()
        self._next_at = 0.0
        self.is_on = False
        """From then on nobody else tells anything."""

    def follow(self, kind: str, payload: dict[str, Any]) -> None:
        """Take an upload's progress event, in any thread."""
        self._sending.sent(kind, payload)
        with self._lock:
            now = time.monotonic()
            if not self.is_on or now < self._next_at:
                return
            self._next_at = now + _EVERY_S
            self._tell("convert.sending", {"sent_bytes": self._sending.sent_bytes})
