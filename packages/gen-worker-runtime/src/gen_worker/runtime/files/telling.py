"""What followers of a request learn about its uploads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gen_worker.events import Emitted

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.ports import Events

__all__ = ["UploadTeller"]


class UploadTeller:
    """Passes on how one file's upload gets on, whatever number of tries it takes.

    A try that fails is not the end: only `failed` says that. Threads may share it.
    """

    def __init__(
        self,
        events: Events,
        request_id: str,
        interval_s: float,
        *,
        tells_end: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            events: Where reports go.
            request_id: Whose file it is.
            interval_s: Least time between two reports of bytes.
            tells_end: False where another one tells of the end.
            clock: Seconds.
        """
        self._events = events
        self._request_id = request_id
        self._interval_s = interval_s
        self._tells_end = tells_end
        self._clock = clock
        self._told_at = float("-inf")
        self._ended: tuple[str, dict[str, Any]] | None = None

    def __call__(self, kind: str, payload: dict[str, Any]) -> None:
        stage = payload.get("stage")
        if stage == "stream_aborted":
            self._ended = (kind, payload)
            return
        is_last = stage != "stream_upload"
        now = self._clock()
        if not is_last and now - self._told_at < self._interval_s:
            return
        if is_last and not self._tells_end:
            return
        self._told_at = now
        self._emit(kind, payload)

    def failed(self) -> None:
        """Say that no further try is made."""
        if self._ended is not None and self._tells_end:
            self._emit(*self._ended)

    def _emit(self, kind: str, payload: dict[str, Any]) -> None:
        event = Emitted(request_id=self._request_id, type=kind, payload=payload, at=time.time())
        self._events.emit(event)
