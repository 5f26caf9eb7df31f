"""What workers are given of requests that came just now: most are given at once."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.values import StoredCall

__all__ = ["Calls"]

_MAX_BYTES = 1024 * 1024
_LARGEST_BYTES = 64 * 1024
_ENTRY_BYTES = 512
"""That a call takes besides its payload."""


class Calls:
    """Calls that are on disk, and need not be read from there; the newest, as many as have room."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, StoredCall] = OrderedDict()
        self._size_bytes = 0

    def keep(self, seq: int, call: StoredCall) -> None:
        """Keep a call until it is taken, or others have taken its room."""
        if len(call.payload) > _LARGEST_BYTES:
            return
        self._kept[seq] = call
        self._size_bytes += _size_of(call)
        while self._size_bytes > _MAX_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._size_bytes -= _size_of(oldest)

    def take(self, seq: int) -> StoredCall | None:
        """Return a call that is kept, and keep it no more."""
        call = self._kept.pop(seq, None)
        if call is not None:
            self._size_bytes -= _size_of(call)
        return call


def _size_of(call: StoredCall) -> int:
    return len(call.payload) + _ENTRY_BYTES
