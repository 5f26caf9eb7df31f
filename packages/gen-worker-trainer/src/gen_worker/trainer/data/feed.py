"""Feeds batches from Parquet files of any size: in order or shuffled, for one rank or for many.

A batch is a `pyarrow.RecordBatch`. Which rows are in which batch follows from the files, the seed
and the epoch alone: neither from the readers' speed, nor from a process's random state, nor from
how many ranks share the batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec.structs import replace

from gen_worker.trainer.data.cursor import Cursor, Positioned
from gen_worker.trainer.data.lists import require_pyarrow
from gen_worker.trainer.data.order import permutation, permuted
from gen_worker.trainer.data.readahead import ahead
from gen_worker.trainer.data.rows import Rows, pieces_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from gen_worker.trainer.data.rows import Piece

__all__ = ["ArrowBatchFeeder", "ArrowFeedConfig", "ParquetArrowBatchFeeder"]


class ArrowFeedConfig(msgspec.Struct, frozen=True):
    """How rows become batches."""

    batch_size: int = 32
    """Rows; short at the end of a row group unless `rebatch` or `shuffle`."""
    readahead: int = 2
    """Batches that are made before they are asked for."""
    columns: tuple[str, ...] = ()
    """Empty means all."""
    epochs: int = 1
    """0 never ends."""
    shuffle: bool = False
    """Row groups in another order each epoch, and rows within blocks of `shuffle_buffer_rows`."""
    shuffle_seed: int = 0
    shuffle_buffer_rows: int = 10_000
    drop_last: bool = False
    """Whether an epoch's last batch is left out if it is short."""
    rebatch: bool = False
    """Whether short pieces are joined to exactly `batch_size` rows."""
    shard_index: int = 0
    shard_count: int = 1
    """Batches are dealt to so many ranks in turn; what would not reach all of them is left out."""


class ArrowBatchFeeder(Protocol):
    """Anything that yields Arrow record batches."""

    def iter_batches(self) -> Iterator[Any]: ...


class ParquetArrowBatchFeeder(Positioned):
    """Batches of Parquet files. One iteration at a time; each begins where the cursor is."""

    def __init__(
        self, parquet_paths: Sequence[str | os.PathLike[str]], config: ArrowFeedConfig | None = None
    ) -> None:
        """Prepare; the files are opened by the first batch.

        Args:
            parquet_paths: In order; their row groups may differ in size.
            config: How they are fed.
        """
        super().__init__()
        self._paths = [str(path) for path in parquet_paths]
        self._config = config or ArrowFeedConfig()
        self._pieces: list[Piece] | None = None

    def iter_batches(self) -> Iterator[Any]:
        """Yield batches until the last epoch ends.

        Raises:
            RuntimeError: pyarrow is not installed.
            InputMaterializationError: A file cannot be read, or has not all columns.
        """
        require_pyarrow()
        for batch, cursor in ahead(self._made(self._cursor), self._config.readahead):
            self._cursor = cursor
            yield batch

    # ----------------------------------------------------------------------------------------------

    def _made(self, start: Cursor) -> Iterator[tuple[Any, Cursor]]:
        """Yield this rank's batches, each with the cursor behind it."""
        config, pieces = self._config, self._opened()
        cursor = start
        while pieces and (not config.epochs or cursor.epoch < config.epochs):
            dealt = 0
            mine: Any = None
            for batch, after in self._epoch(pieces, cursor):
                if dealt % config.shard_count == config.shard_index:
                    mine = batch
                dealt += 1
                if dealt % config.shard_count == 0:
                    yield mine, after
            if dealt < config.shard_count and not cursor.batch:
                return  # nor would any other epoch have enough
            cursor = Cursor(epoch=cursor.epoch + 1)

    def _epoch(self, pieces: Sequence[Piece], start: Cursor) -> Iterator[tuple[Any, Cursor]]:
        """Yield all ranks' batches of one epoch from a cursor on."""
        config = self._config
        if config.shuffle:
            order = permuted(len(pieces), config.shuffle_seed, start.epoch)
            pieces = [pieces[index] for index in order]
        block_rows = self._block_rows
        size = config.batch_size
        rows = Rows(pieces, config.columns, piece=start.piece, row=start.row, read_rows=size)
        count = start.batch
        used = start.used
        is_split = not (config.shuffle or config.rebatch)
        try:
            while True:
                begin = replace(start, piece=rows.piece, row=rows.row, used=0)
                block = rows.take(block_rows, within_piece=is_split)
                if block is None:
                    return
                if config.shuffle:
                    key = (config.shuffle_seed, start.epoch, begin.piece, begin.row)
                    block = block.take(permutation(block.num_rows, *key))
                behind = replace(begin, piece=rows.piece, row=rows.row)
                is_last = rows.piece >= len(pieces)
                for number, batch in enumerate(self._cut(block, is_last=is_last)):
                    if number < used:
                        continue
                    count += 1
                    is_over = (number + 1) * config.batch_size >= block.num_rows
                    after = behind if is_over else replace(begin, used=number + 1)
                    yield batch, replace(after, batch=count)
                used = 0
                block = batch = None  # the next one is made without this one in memory
        finally:
            rows.close()

    @property
    def _block_rows(self) -> int:
        """Rows that are taken at a time: whole batches."""
        config = self._config
        if not config.shuffle:
            return config.batch_size
        return max(1, config.shuffle_buffer_rows // config.batch_size) * config.batch_size

    def _cut(self, block: Any, *, is_last: bool) -> Iterator[Any]:
        size = self._config.batch_size
        for start in range(0, block.num_rows, size):
            part = block.slice(start, size)
            if is_last and self._config.drop_last and part.num_rows < size:
                return
            yield part

    def _opened(self) -> list[Piece]:
        if self._pieces is None:
            self._pieces = pieces_of(self._paths, self._config.columns)
        return self._pieces

    def _identifying(self) -> tuple[Any, ...]:
        config = self._config
        shuffling = (config.shuffle_seed, self._block_rows) if config.shuffle else ()
        how = (config.batch_size, config.shuffle, config.rebatch, *shuffling)
        return how, [piece.rows for piece in self._opened()]
