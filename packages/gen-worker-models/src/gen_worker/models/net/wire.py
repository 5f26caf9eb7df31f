"""HTTP/1.1 answers as bytes: the head, and how the body that follows is delimited."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.net.errors import NetworkError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_HEAD_BYTES", "Head", "body_length", "chunk_length", "head_end", "parse_head"]

MAX_HEAD_BYTES = 65_536
_MAX_HEADERS = 200
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: .*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DIGITS = re.compile(r"[0-9]{1,19}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class Head(NamedTuple):
    """Status line and headers."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; a repeated header's values are joined by `, `."""
    keeps_alive: bool
    """Whether the connection may carry another request after the body."""


def head_end(data: bytes | bytearray) -> int:
    """Return how many bytes the head takes, or -1 while it is not complete."""
    end = data.find(b"\r\n\r\n")
    return end + 4 if end >= 0 else -1


def parse_head(data: bytes) -> Head:
    """Read a complete head.

    Raises:
        NetworkError: It is no head of HTTP/1.x, or one that could be read in two ways.
    """
    lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    status = _STATUS.fullmatch(lines[0])
    is_split = any("\n" in line or "\r" in line for line in lines)
    if status is None or is_split or len(lines) > _MAX_HEADERS:
        raise NetworkError("the server's answer is no HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise NetworkError("the server's answer has a malformed header")
        key, value = name.lower(), value.strip(" \t")
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    options = headers.get("connection", "").lower()
    keeps = "close" not in options if status[1] == "1" else "keep-alive" in options
    return Head(int(status[2]), headers, keeps)


def body_length(head: Head, method: str) -> int | None:
    """Return the body's length; -1 when it is chunked, None when it ends with the connection.

    Raises:
        NetworkError: The headers contradict each other.
    """
    if method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return 0
    coding = head.headers.get("transfer-encoding", "").lower()
    text = head.headers.get("content-length")
    if coding and (coding != "chunked" or text is not None):
        raise NetworkError(
            f"the server's body has the coding {coding[:40]!r}: only chunked is read"
        )
    if coding:
        return -1
    if text is None:
        return None
    lengths = {part.strip() for part in text.split(",")}
    if len(lengths) != 1 or not _DIGITS.fullmatch(lengths.copy().pop()):
        raise NetworkError(f"the server's answer has the length {text[:40]!r}")
    return int(lengths.pop())


def chunk_length(line: bytes) -> int:
    """Read the line before a chunk.

    Raises:
        NetworkError: It is malformed.
    """
    match = _CHUNK.fullmatch(line)
    if match is None:
        raise NetworkError(f"the server's body has a malformed chunk, {line[:40]!r}")
    return int(match[1], 16)
