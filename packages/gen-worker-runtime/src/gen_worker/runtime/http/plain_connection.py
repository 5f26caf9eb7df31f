"""One connection to our server where there is no httptools."""

from __future__ import annotations

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["PlainConnection"]


class PlainConnection(H11Protocol):
    """A connection read by h11, which bounds heads itself. Nobody looks for stalled requests."""

    def close_if_stalled(self, _patience_s: float) -> None:
        return
