"""From a stream of bytes to lines, with a limit on how long one may be."""

from __future__ import annotations

__all__ = ["LineBuffer", "LineTooLongError"]


class LineTooLongError(ValueError):
    """A line has more bytes than are taken; what else belongs to it is skipped."""


class LineBuffer:
    """Bytes that have come, given out line by line.

    It holds as much as was fed and not yet taken; a line that is too long is never kept.
    """

    __slots__ = ("_bytes", "_has_ended", "_is_skipping", "_max_bytes", "_scanned", "is_empty")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = bytearray()
        self._scanned = 0
        self._is_skipping = False
        self._has_ended = False
        self.is_empty = True
        """Whether whatever comes next begins a line; known once `take` has found no more."""

    def feed(self, data: bytes) -> None:
        self._bytes += data
        self.is_empty = False

    def end(self) -> None:
        """Make what is left the last line."""
        self._has_ended = True

    def take(self) -> bytes | None:
        """Return the next line without its end; None when there is no whole one.

        Raises:
            LineTooLongError: The next line is too long; said once for each.
        """
        end = self._bytes.find(b"\n", self._scanned)
        if end < 0:
            return self._take_rest()
        line = bytes(memoryview(self._bytes)[:end])
        del self._bytes[: end + 1]
        self._scanned = 0
        if self._is_skipping:
            self._is_skipping = False
            return self.take()
        self._check(len(line))
        return line

    def _take_rest(self) -> bytes | None:
        if self._is_skipping:
            self._bytes.clear()
        self._scanned = len(self._bytes)
        if self._scanned > self._max_bytes:
            self._is_skipping = True
            self._scanned = 0
            self._bytes.clear()
            self._check(self._max_bytes + 1)
        if not self._has_ended or not self._bytes:
            self.is_empty = not self._bytes and not self._is_skipping
            return None
        line = bytes(self._bytes)
        self._bytes.clear()
        return line

    def _check(self, length: int) -> None:
        if length > self._max_bytes:
            raise LineTooLongError(f"the frame has more than {self._max_bytes} bytes")
