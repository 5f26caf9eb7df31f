"""A bar for what is pushed or pulled, where a person looks at stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from gen_worker.cli.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from gen_worker.cli.terminal import TerminalReports
    from gen_worker.models.fetch import FetchProgress

__all__ = ["TransferBar"]


class TransferBar:
    """Adds up what several files have sent or fetched."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._reports: TerminalReports | None = None
        self._lock = threading.Lock()
        self._sizes: dict[str, tuple[int, int]] = {}

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Show the bar during the block, once it takes longer than a second."""
        if sys.__stderr__ is None or not os.isatty(2):
            yield
            return
        from gen_worker.cli.terminal import TerminalReports

        self._reports = TerminalReports()
        with self._reports.showing(self._label):
            yield

    def sent(self, _kind: str, payload: dict[str, Any]) -> None:
        """Take an upload's progress event."""
        with self._lock:
            self._sizes[payload["ref"]] = (payload["bytes_uploaded"], payload["bytes_written"])
            done, total = map(sum, zip(*self._sizes.values(), strict=True))
        self._show(done, total)

    @property
    def sent_bytes(self) -> int:
        """What was sent so far, of all files."""
        with self._lock:
            return sum(sent for sent, _ in self._sizes.values())

    def fetched(self, progress: FetchProgress) -> None:
        self._show(progress.bytes_done, progress.bytes_total)

    def fetched_of(self, name: str, done: int, total: int | None) -> None:
        """Take the bytes of one of several downloads; all of them together are shown."""
        with self._lock:
            self._sizes[name] = (done, max(total or 0, done))
            done, total = map(sum, zip(*self._sizes.values(), strict=True))
        self._show(done, total)

    def aside(self) -> AbstractContextManager[object]:
        """Keep the terminal free for other output during the block."""
        return self._reports.aside() if self._reports else contextlib.nullcontext()

    def _show(self, done: int, total: int | None) -> None:
        if self._reports is None or not total:
            return
        from gen_worker.events import Progress

        share, stage = min(done / total, 1.0), f"{size_text(done)} of {size_text(total)}"
        self._reports.emit(Progress(request_id="", progress=share, at=time.time(), stage=stage))
