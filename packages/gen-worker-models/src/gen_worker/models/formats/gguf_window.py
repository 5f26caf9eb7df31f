"""Read a file forwards through a window of 1 MiB, refusing what would go beyond its end."""

from __future__ import annotations

from gen_worker.models.formats.damage import DamagedGgufError
from gen_worker.models.formats.plain_files import read_exactly

__all__ = ["MAX_HEADER_BYTES", "MAX_TEXT_BYTES", "Window"]

_WINDOW_BYTES = 1 << 20
MAX_HEADER_BYTES = 256 << 20
"""Of all that lies before the tensors; vocabularies of 300,000 words take some 10 MiB."""
MAX_TEXT_BYTES = 16 << 20
"""Of one text of the metadata; the longest known are chat templates of some 100 KiB."""


class Window:
    """A position in a file that only moves forwards."""

    def __init__(self, descriptor: int, size_bytes: int, path: str) -> None:
        self.path = path
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._buffer = b""
        self._buffer_start = 0
        self._offset = 0
        """In the buffer."""

    @property
    def position(self) -> int:
        return self._buffer_start + self._offset

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        end = self._offset + count
        if end > len(self._buffer):
            self._refill(count)
            end = count
        part = self._buffer[self._offset : end]
        self._offset = end
        return part

    def _refill(self, count: int) -> None:
        start = self.position
        self.check_left(count)
        self._buffer = read_exactly(self._descriptor, max(count, _WINDOW_BYTES), start)
        self._buffer_start, self._offset = start, 0
        if len(self._buffer) < count:
            raise self._truncated(count)

    def skip(self, count: int) -> None:
        self.check_left(count)
        self._offset += count
        if self._offset > len(self._buffer):
            self._buffer_start, self._offset, self._buffer = self.position, 0, b""

    def skip_texts(self, count: int) -> None:
        """Skip so many texts; a vocabulary has hundreds of thousands."""
        for _ in range(count):
            start = self._offset
            end = start + 8
            length = int.from_bytes(self._buffer[start:end], "little")
            if end + length < len(self._buffer):
                self._offset = end + length
            else:
                self.skip(self.number(8))

    def number(self, size_bytes: int) -> int:
        """Return the next unsigned number."""
        return int.from_bytes(self.take(size_bytes), "little")

    def text(self, max_bytes: int | None, what: str) -> str:
        """Return the next text; `what` it is, for messages."""
        length = self.number(8)
        limit = MAX_TEXT_BYTES if max_bytes is None else max_bytes
        self.check_left(length)
        if length > limit:
            raise DamagedGgufError(
                self.path,
                "metadata",
                f"{what} at byte {self.position} has {length} bytes, at most {limit} are allowed",
                expected=limit,
                actual=length,
            )
        raw = self.take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            problem = f"{what} at byte {self.position - length} is no UTF-8"
            raise DamagedGgufError(self.path, "metadata", problem, actual=raw[:64]) from error

    def check_count(self, count: int, least_bytes: int, limit: int | None, what: str) -> None:
        """Refuse a count of things, each of at least so many bytes, that cannot be true."""
        most = (self._size_bytes - self.position) // least_bytes
        allowed = most if limit is None else min(most, limit)
        if count > allowed:
            raise DamagedGgufError(
                self.path,
                "header_count",
                f"it claims {count} {what}, at most {allowed} are possible",
                expected=allowed,
                actual=count,
            )

    def check_left(self, count: int) -> None:
        """Refuse to go beyond the end."""
        if count > self._size_bytes - self.position:
            raise self._truncated(count)
        if self.position + count > MAX_HEADER_BYTES:
            raise DamagedGgufError(
                self.path,
                "header_size",
                f"its header wants {count} bytes at {self.position}, at most {MAX_HEADER_BYTES} "
                "are allowed",
                expected=MAX_HEADER_BYTES,
                actual=self.position + count,
            )

    def _truncated(self, count: int) -> DamagedGgufError:
        return DamagedGgufError(
            self.path,
            "truncated",
            f"its header wants {count} bytes at {self.position}, the file has {self._size_bytes}",
            expected=self.position + count,
            actual=self._size_bytes,
        )
