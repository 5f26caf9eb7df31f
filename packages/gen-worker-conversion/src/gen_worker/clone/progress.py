"""How far an import is, as its caller hears it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.context import ConversionContext

__all__ = ["CloneProgress"]

_EVENT = "conversion.clone_progress"
_DOWNLOAD = (0.25, 0.55)
_CONVERT = (0.60, 0.85)
_HEARTBEAT_S = 5.0


class CloneProgress:
    """Tells of stages, and every few seconds of the bytes within one."""

    def __init__(
        self, ctx: ConversionContext, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ctx = ctx
        self._clock = clock
        self._since = self._told = clock()

    def stage(self, name: str, progress: float, **extras: Any) -> None:
        """Tell that a stage is reached; `extras` say more about it."""
        now = self._told = self._clock()
        elapsed = round(now - self._since, 3)
        self._ctx.emit(
            _EVENT, {"stage": name, "progress": progress, "elapsed_s": elapsed, **extras}
        )
        self._ctx.progress(progress, name)

    def downloading(self, done: int, total: int | None) -> None:
        """Take note of bytes that arrived."""
        self._within("clone.ingest.downloading", _DOWNLOAD, done, total)

    def converting(self, number: int, count: int) -> Callable[[int, int], None]:
        """Return what takes note of the bytes of one flavor of several."""
        low, high = self.share(number, count), self.share(number + 1, count)

        def watch(done: int, total: int) -> None:
            self._ctx.raise_if_canceled()
            self._within("clone.save_format.converting", (low, high), done, total)

        return watch

    def share(self, number: int, count: int) -> float:
        """Return the progress before one flavor of several."""
        low, high = _CONVERT
        return low + (high - low) * number / count

    def _within(self, name: str, span: tuple[float, float], done: int, total: int | None) -> None:
        now = self._clock()
        if now - self._told < _HEARTBEAT_S:
            return
        low, high = span
        part = min(done / total, 1.0) if total else 0.0
        seconds = max(now - self._since, 1e-9)
        self.stage(
            name,
            round(low + (high - low) * part, 4),
            bytes_done=done,
            bytes_total=total,
            bytes_per_s=round(done / seconds),
        )
