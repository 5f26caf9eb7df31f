"""How far a source has been read: small enough for every checkpoint, and exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BatchSource", "Cursor", "Positioned"]


class Cursor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the next batch begins. Order is a function of the seed and of this, nothing else."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that are behind, those of all shards."""
    piece: int = 0
    """Row group among all of the epoch, in the epoch's order, where the block begins."""
    row: int = 0
    """Rows of it that are before the block."""
    used: int = 0
    """Batches that were taken of the block already."""
    identity: str = ""
    """Of the data and of how it is fed: a cursor means nothing elsewhere."""


class BatchSource(Protocol):
    """A source that a run can go on with exactly where it was."""

    def iter_batches(self) -> Iterator[Any]: ...
    def cursor(self) -> Cursor:
        """Return where the batch begins that comes after the one given last."""
        ...

    def seek(self, cursor: Cursor) -> None:
        """Begin there.

        Raises:
            ValueError: It is the cursor of other data.
        """
        ...


class Positioned:
    """A source's place, and that it is one in these data. `iter_batches` moves `_cursor`."""

    def __init__(self) -> None:
        """Begin with the first batch."""
        self._cursor = Cursor()
        self._known_identity = ""

    def cursor(self) -> Cursor:
        """Return where the batch begins that comes after the one given last."""
        return replace(self._cursor, identity=self._identity())

    def seek(self, cursor: Cursor) -> None:
        """Begin there with the next iteration.

        Raises:
            ValueError: It is the cursor of other data.
            InputMaterializationError: The data cannot be read.
        """
        if cursor.identity and cursor.identity != self._identity():
            raise ValueError(
                "the checkpoint was made with other data, or with other settings of `dataset`: "
                'give it the same, or set dataset.resume to "restart"'
            )
        self._cursor = cursor

    def _identity(self) -> str:
        """Return what has to be the same for a cursor to mean the same rows."""
        if not self._known_identity:
            from blake3 import blake3

            facts = self._identifying()
            if facts:
                self._known_identity = blake3(msgspec.json.encode(facts)).hexdigest()[:32]
        return self._known_identity

    def _identifying(self) -> tuple[Any, ...]:
        """Return JSON values that other data, or these fed otherwise, have not; none: unknown."""
        return ()
