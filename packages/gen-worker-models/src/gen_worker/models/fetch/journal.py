"""The journal beside a partial file: which blocks were written, and what they should hash to.

A line is appended only after its block's bytes were written. Neither is flushed to the disk, so
after a power failure a line may speak of bytes that are lost: whoever adopts a partial hashes the
bytes again before it believes a line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from gen_worker.models.fetch.blocks import Mark

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Header", "Journal", "decode_journal", "encode_header", "encode_mark"]

_VERSION = 1
_LINE = re.compile(rb"([pbc]) ([0-9]{1,12}) ([0-9a-f]{40,64}|-)")
_LETTERS: dict[str, Literal["prefix", "block", "claim"]] = {
    "p": "prefix",
    "b": "block",
    "c": "claim",
}
_MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES = 4096, 1 << 30


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: what the partial is a part of."""

    size_bytes: int
    block_bytes: int
    digest: str
    version: int = _VERSION


class Journal(NamedTuple):
    """What a journal says."""

    header: Header
    marks: tuple[Mark, ...]
    """Of each block the last line."""


def encode_header(header: Header) -> bytes:
    return msgspec.json.encode(header) + b"\n"


def encode_mark(mark: Mark) -> bytes:
    return f"{mark.kind[0]} {mark.block} {mark.digest or '-'}\n".encode("ascii")


def decode_journal(data: bytes) -> Journal | None:
    """Read a journal as far as it is intact; None when not even its first line is.

    The last line may be torn, and a line damaged on disk is skipped: its block is fetched again.
    """
    first, _, rest = data.partition(b"\n")
    try:
        header = msgspec.json.decode(first, type=Header)
    except msgspec.MsgspecError:
        return None
    if header.version != _VERSION or header.size_bytes <= 0:
        return None
    if not _MIN_BLOCK_BYTES <= header.block_bytes <= _MAX_BLOCK_BYTES:
        return None
    return Journal(header, tuple(_marks(rest.split(b"\n")[:-1])))


def _marks(lines: Iterable[bytes]) -> Iterable[Mark]:
    found: dict[int, Mark] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        kind, index = _LETTERS[match[1].decode()], int(match[2])
        digest = "" if match[3] == b"-" else match[3].decode()
        if bool(digest) == (kind != "claim"):
            found[index] = Mark(kind, index, digest)
    return found.values()
