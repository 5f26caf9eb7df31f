"""Tells how an upload gets on, at most five times a second."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.hub.clock import Clock

__all__ = ["UploadProgress"]

EVENT = "request.upload_progress"
_INTERVAL_S = 0.2

Stage = Literal["stream_write", "stream_upload", "stream_finalized", "stream_aborted"]


class UploadProgress:
    """Counts what one file's upload has sent. Threads may share it."""

    def __init__(
        self,
        tell: Callable[[str, dict[str, Any]], object] | None,
        ref: str,
        size_bytes: int,
        clock: Clock,
    ) -> None:
        self._tell = tell
        self._ref = ref
        self._size_bytes = size_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._began_at = self._told_at = clock.now()
        self._told_bytes = self._bytes = self._parts = 0

    def add(self, count: int) -> None:
        """Count bytes on their way; a part that is sent again takes its own back (negative)."""
        with self._lock:
            self._bytes += count
        self._say("stream_upload", force=False)

    def add_part(self) -> None:
        with self._lock:
            self._parts += 1

    def finalized(self, elapsed_s: float) -> None:
        self._say("stream_finalized", force=True, finalize_elapsed_s=elapsed_s)

    def aborted(self, error: BaseException) -> None:
        self._say("stream_aborted", force=True, error_class=type(error).__name__)

    def _say(self, stage: Stage, *, force: bool, **more: Any) -> None:
        if self._tell is None:
            return
        with self._lock:
            now = self._clock.now()
            since_s, elapsed_s = now - self._told_at, now - self._began_at
            if not force and since_s < _INTERVAL_S:
                return
            payload = {
                "stage": stage,
                "ref": self._ref,
                "stream_mode": "presigned",
                "bytes_written": self._size_bytes,
                "bytes_uploaded": self._bytes,
                "chunks_written": self._parts,
                "chunks_uploaded": self._parts,
                "upload_bps": self._bytes / elapsed_s if elapsed_s > 0 else 0.0,
                "inst_upload_bps": (self._bytes - self._told_bytes) / since_s if since_s else 0.0,
                "elapsed_s": elapsed_s,
                **more,
            }
            self._told_at, self._told_bytes = now, self._bytes
        self._tell(EVENT, payload)
