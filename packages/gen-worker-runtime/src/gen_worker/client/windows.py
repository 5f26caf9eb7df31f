"""Which of many calls are begun and whose outputs are given; no call is made here."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from gen_worker.client.errors import CallError

__all__ = ["Future", "Window", "output_of"]

_AHEAD = 4


class Future(Protocol):
    """Of a call; those of threads and those of event loops are alike."""

    def done(self) -> bool: ...
    def result(self) -> object: ...


F = TypeVar("F", bound=Future)


class Window(Generic[F]):
    """The calls that were begun and whose outputs were not given yet."""

    def __init__(self, concurrency: int, ordered: bool) -> None:
        """Begin with none.

        Args:
            concurrency: How many run at a time.
            ordered: Give outputs in the order in which calls were begun; some wait for those before
                them then, and not too many.

        Raises:
            ValueError: No call would run.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency!r}")
        self.calls: deque[F] = deque()
        self._concurrency = concurrency
        self._ordered = ordered

    @property
    def running(self) -> list[F]:
        return [call for call in self.calls if not call.done()]

    @property
    def has_room(self) -> bool:
        """Whether one more may begin."""
        if len(self.calls) >= _AHEAD * self._concurrency:
            return False
        return len(self.running) < self._concurrency

    def take(self) -> list[F]:
        """Take those out that have ended and whose turn it is."""
        if not self._ordered:
            ended = [call for call in self.calls if call.done()]
            self.calls = deque(call for call in self.calls if call not in ended)
            return ended
        ended = []
        while self.calls and self.calls[0].done():
            ended.append(self.calls.popleft())
        return ended


def output_of(call: Future, return_errors: bool) -> object:
    """Return what a call has put out, or the error in its place.

    Raises:
        CallError: It failed, and errors are not to be returned.
    """
    try:
        return call.result()
    except CallError as error:
        if not return_errors:
            raise
        return error
