"""What a connection answers after its current request, in the order it was asked."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.runtime.ndjson.request import Request

__all__ = ["Turns"]


class Turns:
    """Requests that wait, and ready answers to frames that became none."""

    __slots__ = ("_bytes", "_max_bytes", "_max_count", "waiting")

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self.waiting: deque[Request | bytes] = deque()
        """To look at; nearly always empty, which costs nothing to find out here."""
        self._bytes = 0
        self._max_count = max_count
        self._max_bytes = max_bytes

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be read for now; what was read is taken all the same."""
        return len(self.waiting) >= self._max_count or self._bytes >= self._max_bytes

    def push(self, turn: Request | bytes) -> None:
        self.waiting.append(turn)
        self._bytes += _size_of(turn)

    def pop(self) -> Request | bytes:
        turn = self.waiting.popleft()
        self._bytes -= _size_of(turn)
        return turn

    def keep_detached(self) -> Iterable[Request]:
        """Forget all but detached requests, and return the other requests."""
        requests = [turn for turn in self.waiting if not isinstance(turn, bytes)]
        self.waiting = deque(request for request in requests if request.is_detached)
        self._bytes = sum(map(_size_of, self.waiting))
        return [request for request in requests if not request.is_detached]


def _size_of(turn: Request | bytes) -> int:
    return len(turn) if isinstance(turn, bytes) else turn.size_bytes
