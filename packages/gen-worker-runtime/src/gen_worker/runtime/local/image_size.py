"""How large an image is, read from its header alone: nothing is decoded, so nothing can explode."""

from __future__ import annotations

import struct
from typing import BinaryIO

__all__ = ["image_size"]


def image_size(file: BinaryIO) -> tuple[int, int] | None:
    """Return width and height in pixels; None for a format or header that is not understood.

    Args:
        file: At its beginning; it is left anywhere.
    """
    head = file.read(32)
    try:
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack(">II", head[16:24])
        if head[:6] in (b"GIF87a", b"GIF89a"):
            return struct.unpack("<HH", head[6:10])
        if head[:2] == b"BM":
            width, height = struct.unpack("<ii", head[18:26])
            return abs(width), abs(height)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(head)
        if head.startswith(b"\xff\xd8"):
            file.seek(2)
            return _jpeg(file)
    except struct.error:
        return None
    return None


def _webp(head: bytes) -> tuple[int, int] | None:
    """Read the first chunk: lossy, lossless or extended (RFC 9649)."""
    if head[12:16] == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if head[12:16] == b"VP8L":
        (bits,) = struct.unpack("<I", head[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8X" and len(head) >= 30:
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


# Start-of-frame markers; C4, C8 and CC among them mean something else (ITU T.81, table B.1).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_SCAN_OR_END = (0xD9, 0xDA)


def _jpeg(file: BinaryIO) -> tuple[int, int] | None:
    while True:
        marker = _next_marker(file)
        if marker in _STANDALONE:
            continue
        if marker is None or marker in _SCAN_OR_END:
            return None
        (length,) = struct.unpack(">H", file.read(2))
        if length < 2:
            return None
        if marker in _FRAMES:
            _, height, width = struct.unpack(">BHH", file.read(5))
            return width, height
        file.seek(length - 2, 1)


def _next_marker(file: BinaryIO) -> int | None:
    if file.read(1) != b"\xff":
        return None
    code = file.read(1)
    while code == b"\xff":  # any number of fill bytes
        code = file.read(1)
    return code[0] if code else None
