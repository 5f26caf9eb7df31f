"""Signs of life on streams, for clients and for what is in between."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Pings"]


class _Stream(Protocol):
    def ping(self) -> None: ...


class Pings:
    """Has every stream that is open show a sign of life, all of them with one timer."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._streams: set[_Stream] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: _Stream) -> None:
        self._streams.add(stream)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._ping)

    def discard(self, stream: _Stream) -> None:
        self._streams.discard(stream)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ping(self) -> None:
        self._timer = None
        for stream in tuple(self._streams):
            stream.ping()
            self.add(stream)
