"""BLAKE3 of whole files, computed while their blocks come in any order."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.formats.damage import DamagedSafetensorsError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FileHash", "check_digest"]

_MAX_THREADS = 4


class _Piece(NamedTuple):
    data: memoryview
    release: Callable[[], None]


def _nothing() -> None:
    return None


class FileHash:
    """The hash of one file; pieces may be given in any order and are used in theirs."""

    def __init__(self, size_bytes: int) -> None:
        from blake3 import blake3

        threads = min(max((os.cpu_count() or 1) // 4, 1), _MAX_THREADS)  # the readers want some too
        self._hasher = blake3(max_threads=threads)
        self._size_bytes = size_bytes
        self._next = 0
        self._waiting: dict[int, _Piece] = {}

    def add(self, offset: int, data: memoryview, release: Callable[[], None] = _nothing) -> None:
        """Take the bytes at `offset`; what is beyond the end of the file is not of it.

        Args:
            offset: In the file.
            data: Must stay as it is until `release` is called.
            release: Called once the bytes are no longer needed.
        """
        self._waiting[offset] = _Piece(data, release)
        while (piece := self._waiting.pop(self._next, None)) is not None:
            self._hasher.update(piece.data[: self._size_bytes - self._next])
            self._next += len(piece.data)
            piece.release()

    def hexdigest(self) -> str:
        """Return the hash; all of the file must have been added."""
        assert self._next >= self._size_bytes, "not all of the file was hashed"
        return str(self._hasher.hexdigest())


def check_digest(path: str, expected: str, actual: str) -> None:
    """Refuse a file whose hash is another.

    Raises:
        DamagedSafetensorsError: Names both.
    """
    if expected != actual:
        raise DamagedSafetensorsError(
            path,
            "digest",
            f"its BLAKE3 is {actual!r}, it should be {expected!r}",
            expected=expected,
            actual=actual,
        )
