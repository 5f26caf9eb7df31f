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
            return _gif(file, head)
        if head[:2] == b"BM":
            width, height = struct.unpack("<ii", head[18:26])
            return abs(width), abs(height)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(head)
        if head.startswith(b"\xff\xd8"):
            return _jpeg(file)
    except struct.error:
        return None
    return None


# Metadata comes in blocks; no camera or editor writes this many, and reading them costs time.
_MAX_BLOCKS = 10_000


def _gif(file: BinaryIO, head: bytes) -> tuple[int, int] | None:
    """Read the screen and the first frame: decoders enlarge the screen to hold the frame."""
    width, height, flags = struct.unpack("<HHB", head[6:11])
    file.seek(13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
    blocks = iter(range(_MAX_BLOCKS))
    for _ in blocks:
        kind = file.read(1)
        if kind == b",":
            left, top, wide, high = struct.unpack("<HHHH", file.read(8))
            return max(width, left + wide), max(height, top + high)
        if kind == b"!":
            file.seek(1, 1)  # what sort of extension it is
        elif kind != b"\x00":
            return None
        while next(blocks, None) is not None and (length := file.read(1)) > b"\x00":
            file.seek(length[0], 1)
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
_SCAN_OR_END = (b"", b"\xd9", b"\xda")


def _jpeg(file: BinaryIO) -> tuple[int, int] | None:
    """Read every frame header before the scan: decoders differ in which of several they believe."""
    width = height = 0
    at = 2
    for _ in range(_MAX_BLOCKS):
        file.seek(at)
        start = file.read(4)
        if start[:2] == b"\xff\xff":  # any number of fill bytes
            at += 1
        elif start[:1] != b"\xff" or start[1:2] in _SCAN_OR_END:
            break
        elif start[1] in _STANDALONE:
            at += 2
        else:
            if start[1] in _FRAMES:
                _, high, wide = struct.unpack(">BHH", file.read(5))
                width, height = max(width, wide), max(height, high)
            at += 2 + max(2, int.from_bytes(start[2:], "big"))
    return (width, height) if width and height else None
