"""The digests that files are known by, and the hashers that compute them as bytes arrive."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Digest", "Hasher", "block_hasher", "hash_file", "new_hasher", "parse_digest"]

_HEX_CHARS = {"blake3": 64, "sha256": 64, "git-sha1": 40}
_HEX = re.compile(r"[0-9a-f]+")
_READ_BYTES = 1 << 20


class Digest(NamedTuple):
    """A digest and how it is computed."""

    algorithm: str
    """`blake3`, `sha256`, `git-sha1`, or empty when nothing is expected."""
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}" if self.algorithm else ""


class Hasher(Protocol):
    """What `hashlib` and BLAKE3 have in common."""

    def update(self, data: memoryview, /) -> object: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Self: ...


def parse_digest(text: str) -> Digest:
    """Read `blake3:<hex>`, `sha256:<hex>`, `git-sha1:<hex>` or nothing at all.

    Raises:
        ValidationError: It is something else.
    """
    if not text:
        return Digest("", "")
    algorithm, _, digits = text.partition(":")
    digits = digits.lower()
    if _HEX_CHARS.get(algorithm) != len(digits) or not _HEX.fullmatch(digits):
        raise ValidationError(
            f"{text!r:.120} is no digest such as 'blake3:<64 hex digits>': known are "
            + ", ".join(_HEX_CHARS)
        )
    return Digest(algorithm, digits)


def new_hasher(algorithm: str, size_bytes: int) -> Hasher:
    """Return a hasher of a whole file, BLAKE3 where no algorithm is named.

    Args:
        algorithm: As in `Digest`.
        size_bytes: Of the file; git hashes it first.
    """
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "git-sha1":
        return hashlib.sha1(b"blob %d\x00" % size_bytes, usedforsecurity=False)
    return block_hasher()


def block_hasher() -> Hasher:
    """Return a hasher of a part of a file."""
    from blake3 import blake3

    return blake3()


def hash_file(path: str, algorithm: str, check: Callable[[], None]) -> tuple[Digest, int]:
    """Return a file's digest and size.

    Args:
        path: The file.
        algorithm: As in `Digest`.
        check: Called for each MiB; what it raises ends the reading.

    Raises:
        OSError: It cannot be read.
    """
    buffer = memoryview(bytearray(_READ_BYTES))
    size = 0
    with open(path, "rb", buffering=0) as file:
        file.seek(0, 2)
        hasher = new_hasher(algorithm, file.tell())
        file.seek(0)
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
            check()
    return Digest(algorithm or "blake3", hasher.hexdigest()), size
