"""Takes the framing out of bodies that S3 clients send in signed chunks (`aws-chunked`)."""

from __future__ import annotations

from gen_worker.models.hub.local.refusals import Refusal

__all__ = ["AwsChunks"]

_MAX_LINE_BYTES = 4096


class AwsChunks:
    """Decodes a body piece by piece: `size[;signature]`, the bytes, …, a size of 0, trailers."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._left = 0
        self._is_in_trailer = False
        self._skips = 0

    def __call__(self, data: bytes) -> bytes:
        """Return what of the next piece of the body is content.

        Raises:
            Refusal: 400, it is not framed that way.
        """
        content = bytearray()
        position = 0
        while position < len(data) and not self._is_in_trailer:
            if self._left:
                piece = data[position : position + self._left]
                content += piece
                position += len(piece)
                self._left -= len(piece)
                self._skips = 2 if not self._left else 0
            elif self._skips:
                count = min(self._skips, len(data) - position)
                self._skips -= count
                position += count
            else:
                position = self._read_line(data, position)
        return bytes(content)

    def _read_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        self._line += data[position:stop]
        if len(self._line) > _MAX_LINE_BYTES:
            raise _malformed()
        if end >= 0:
            self._begin(bytes(self._line).strip())
            self._line.clear()
        return stop

    def _begin(self, line: bytes) -> None:
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise _malformed() from None
        if self._left < 0:
            raise _malformed()
        self._is_in_trailer = self._left == 0


def _malformed() -> Refusal:
    return Refusal(400, "invalid_body", "the body is not framed as aws-chunked")
