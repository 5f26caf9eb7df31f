"""How far a source has been read: small enough for every checkpoint, and exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BatchSource", "Cursor"]


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
