"""Reads server-sent events from pieces of a stream (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Frame", "FrameReader", "FrameTooLargeError"]

_MAX_BYTES = 256 * 1024 * 1024


class FrameTooLargeError(ValueError):
    """One event has more bytes than any host sends."""


class Frame(NamedTuple):
    """One event."""

    id: int
    """0 when it has none, or one that is no number."""
    name: str
    data: bytes


class FrameReader:
    """Takes bytes as they come, cut anywhere."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        """Begin a stream.

        Args:
            max_bytes: Of one event.
        """
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._ended_with_cr = False
        self._id = 0
        self._name = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return the events that are complete with this piece.

        Raises:
            FrameTooLargeError: One is not, and has too many bytes already.
        """
        if self._ended_with_cr and data[:1] == b"\n":
            data = data[1:]
            self._ended_with_cr = False
        if data:
            self._ended_with_cr = data[-1:] == b"\r"
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        if lines and self._rest:
            lines[0] = bytes(self._rest + lines[0])
            self._rest.clear()
        found = [frame for line in lines if (frame := self._line(line)) is not None]
        self._rest += rest
        if len(self._rest) + self._data_bytes > self._max_bytes:
            raise FrameTooLargeError(f"an event has more than {self._max_bytes} bytes")
        return found

    def _line(self, line: bytes) -> Frame | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value)
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"id":
            self._id = int(value) if value.isdigit() and len(value) < 19 else 0
        return None

    def _dispatch(self) -> Frame | None:
        frame = None
        if self._data:
            frame = Frame(self._id, self._name or "message", b"\n".join(self._data))
        self._data.clear()
        self._data_bytes = 0
        self._id, self._name = 0, ""
        return frame
