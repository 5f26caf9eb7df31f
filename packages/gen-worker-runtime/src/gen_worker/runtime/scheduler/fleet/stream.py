"""A streamed output on its way: in order, each item once, and whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.runtime.wire import TokenDelta

__all__ = ["Stream"]

_MAX_HELD = 4096
_MAX_HELD_BYTES = 16 * 1024 * 1024


class Stream:
    """The items of one attempt. Streams of a worker are independent: any may come late, or twice.

    What comes too early waits for what is missing.
    """

    __slots__ = ("_held", "_held_bytes", "ends_with", "next")

    def __init__(self, after: int = 0) -> None:
        """Begin.

        Args:
            after: The last sequence that is known.
        """
        self.next = after + 1
        """The sequence that is due."""
        self.ends_with: int | None = None
        """The sequence behind the last item; None while nobody has said."""
        self._held: dict[int, TokenDelta] = {}
        self._held_bytes = 0

    @property
    def is_whole(self) -> bool:
        return self.ends_with is not None and self.next >= self.ends_with

    @property
    def is_broken(self) -> bool:
        """Whether so much waits for what is missing that it will not come any more."""
        return len(self._held) > _MAX_HELD or self._held_bytes > _MAX_HELD_BYTES

    def take(self, delta: TokenDelta) -> list[TokenDelta]:
        """Take an item, and return those whose turn has come."""
        sequence = delta.sequence
        if sequence > self.next:
            if sequence not in self._held:
                self._held[sequence] = delta
                self._held_bytes += _size(delta)
            return []
        if sequence < self.next:
            return []
        found = [delta]
        self.next += 1
        while self._held and (held := self._held.pop(self.next, None)) is not None:
            self._held_bytes -= _size(held)
            found.append(held)
            self.next += 1
        return found

    def end(self, sequence: int) -> None:
        """Note that the item before this sequence is the last."""
        self.ends_with = max(1, sequence)


def _size(delta: TokenDelta) -> int:
    return len(delta.payload_json) + len(delta.audio_chunk) + len(delta.delta_text)
