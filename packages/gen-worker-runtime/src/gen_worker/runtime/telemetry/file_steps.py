"""The `Files` port of a host whose requests are reported on: it times what they store."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.ports import SaveOptions
    from gen_worker.runtime.telemetry.requests import Requests
    from gen_worker.types import Asset, Tensors

__all__ = ["ReportedFiles"]


class ReportedFiles:
    """Books the time of each stored output with the request it belongs to. Any thread."""

    def __init__(self, files: Any, requests: Requests) -> None:
        self._files = files
        self._requests = requests

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    async def save(
        self, ref: str, source: bytes | Path, options: SaveOptions, *, request_id: str
    ) -> Asset | Tensors:
        since = perf_counter()
        try:
            saved: Asset | Tensors = await self._files.save(
                ref, source, options, request_id=request_id
            )
        finally:
            track = self._requests.find(request_id)
            if track is not None:
                track.note_upload(since, perf_counter())
        return saved
