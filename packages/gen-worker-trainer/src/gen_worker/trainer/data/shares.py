"""The batches of one process among several that go through the same data once."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.trainer.data.cursor import BatchSource, Cursor

__all__ = ["Shares", "Spare"]


class Spare(NamedTuple):
    """A batch of another process, for one that has none of its own in this round."""

    batch: Any


class Shares:
    """Every so-manieth batch of a source, the batches themselves being those of a single process.

    All processes get as many: where the last round has too few, some get a `Spare`. So what they do
    with each batch may be collective.
    """

    def __init__(self, source: BatchSource, rank: int, size: int, most: int = 0) -> None:
        """Prepare.

        Args:
            source: The same in each process.
            rank: Of this process.
            size: How many processes there are.
            most: Batches that all of them get together; 0 is all there are.
        """
        self._source = source
        self._rank = rank
        self._size = size
        self._most = most

    def cursor(self) -> Cursor:
        return self._source.cursor()

    def seek(self, cursor: Cursor) -> None:
        self._source.seek(cursor)

    def iter_batches(self) -> Iterator[Any]:
        """Yield batches, and `Spare` ones, from where the source is."""
        batches = self._source.iter_batches()
        try:
            wanted = islice(batches, self._most or None)
            while this_round := list(islice(wanted, self._size)):
                if self._rank < len(this_round):
                    yield this_round[self._rank]
                else:
                    yield Spare(this_round[0])
        finally:
            close = getattr(batches, "close", None)
            if callable(close):
                close()
