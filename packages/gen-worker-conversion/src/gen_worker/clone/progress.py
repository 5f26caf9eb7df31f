"""How far an import is, as its caller hears it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.context import ConversionContext

__all__ = ["CloneProgress"]

_EVENT = "conversion.clone_progress"
_DOWNLOAD = (0.25, 0.55)
_CONVERT = (0.60, 0.85)
_REPACKAGE = (0.90, 0.94)
_HEARTBEAT_S = 5.0

Span = tuple[float, float]


class CloneProgress:
    """Tells of stages, and every few seconds of the bytes within one. Thread-safe."""

    def __init__(
        self,
        ctx: ConversionContext,
        *,
        heartbeat_s: float = _HEARTBEAT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ctx = ctx
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._since = clock()
        self._lock = threading.Lock()

    def stage(self, name: str, progress: float, **extras: Any) -> None:
        """Tell that a stage is reached; `extras` say more about it."""
        with self._lock:
            elapsed = round(self._clock() - self._since, 3)
            told = {"stage": name, "progress": round(progress, 4), "elapsed_s": elapsed, **extras}
            self._ctx.emit(_EVENT, told)
            self._ctx.progress(progress, name)

    @contextmanager
    def downloading(self) -> Iterator[Callable[[int, int | None], None]]:
        """Give what takes note of bytes that arrive; begin, heartbeats and end are told."""
        name, (low, high) = "clone.ingest.downloading", _DOWNLOAD
        bytes_now = _Bytes(self._clock)
        self.stage(name, low, **bytes_now.told())
        with self._beating(name, _DOWNLOAD, bytes_now):
            yield bytes_now.note
        self.stage(name, high, **bytes_now.told())

    @contextmanager
    def making(self, name: str, span: Span) -> Iterator[Callable[[int, int | None], None]]:
        """Give what takes note of the bytes of one flavor; only heartbeats are told."""
        bytes_now = _Bytes(self._clock)
        with self._beating(name, span, bytes_now):
            yield bytes_now.note

    def share(self, number: int, count: int) -> Span:
        """Return the progress before and after one flavor of several."""
        return _part(_CONVERT, number, count)

    def repackage_share(self, number: int, count: int) -> Span:
        """Return the same for flavors whose layout changes."""
        return _part(_REPACKAGE, number, count)

    @contextmanager
    def _beating(self, name: str, span: Span, bytes_now: _Bytes) -> Iterator[None]:
        """Tell every few seconds how far something is, also while nothing moves."""
        is_over = threading.Event()

        def beat() -> None:
            while not is_over.wait(self._heartbeat_s):
                low, high = span
                self.stage(name, low + (high - low) * bytes_now.part, **bytes_now.told())

        thread = threading.Thread(target=beat, name="gen-worker-clone-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class _Bytes:
    """Bytes of one piece of work; written by one thread, read by another."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._now: tuple[int, int | None] = (0, None)

    def note(self, done: int, total: int | None) -> None:
        self._now = (done, total)

    @property
    def part(self) -> float:
        done, total = self._now
        return min(done / total, 1.0) if total else 0.0

    def told(self) -> dict[str, Any]:
        done, total = self._now
        seconds = max(self._clock() - self._since, 1e-9)
        return {"bytes_done": done, "bytes_total": total, "bytes_per_s": round(done / seconds)}


def _part(span: Span, number: int, count: int) -> Span:
    low, high = span
    step = (high - low) / count
    return low + step * number, low + step * (number + 1)
