"""Messages that were handed to a stream and may not have arrived.

The protocol has no acknowledgement. What a stream took a while ago, or much before what it took
last, has arrived if the stream still lives: the transport checks every ten seconds that the other
end answers, and its window holds no more than some megabytes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Doubt"]


class Sent(Protocol):
    """A message as it went out."""

    @property
    def data(self) -> bytes: ...


M = TypeVar("M", bound=Sent)


class Doubt(Generic[M]):
    """What one stream took last, oldest first. For one thread."""

    def __init__(self, max_bytes: int) -> None:
        """Doubt nothing.

        Args:
            max_bytes: Of what was sent after a message; once it is more, that message has arrived.
        """
        self._max_bytes = max_bytes
        self._messages: deque[tuple[M, float]] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[M]:
        return (message for message, _ in self._messages)

    def add(self, message: M, at: float) -> None:
        """Doubt a message from now on."""
        self._messages.append((message, at))
        self.size_bytes += len(message.data)
        while self.size_bytes - len(self._messages[0][0].data) > self._max_bytes:
            self._forget()

    def settle(self, before: float) -> None:
        """Believe in everything that was sent before a time."""
        while self._messages and self._messages[0][1] < before:
            self._forget()

    def discard(self, is_unwanted: Callable[[M], bool]) -> None:
        """Forget messages that are not to be sent again whether they arrived or not."""
        kept = [(message, at) for message, at in self._messages if not is_unwanted(message)]
        self._messages = deque(kept)
        self.size_bytes = sum(len(message.data) for message, _ in kept)

    def take(self) -> list[M]:
        """Return all of it, to be sent again."""
        messages = [message for message, _ in self._messages]
        self._messages.clear()
        self.size_bytes = 0
        return messages

    def _forget(self) -> None:
        message, _ = self._messages.popleft()
        self.size_bytes -= len(message.data)
