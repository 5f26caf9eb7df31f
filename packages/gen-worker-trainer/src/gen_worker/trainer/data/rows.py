"""The rows of Parquet files, one row group after the other, from any place on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.trainer.errors import InputMaterializationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Piece", "Rows", "pieces_of"]

_MAX_READ_ROWS = 65_536
_READ_BYTES = 4 * 1024 * 1024
"""Decoded at a time, more or less. With as many rows as a small batch has, narrow rows were fed at
0.6 of the speed of a scan; much more than this no longer helps, and is memory."""


class Piece(NamedTuple):
    """One row group."""

    path: str
    group: int
    """Its number in the file."""
    rows: int
    row_bytes: int = 1
    """Of a row, decoded, more or less."""


def pieces_of(paths: Sequence[str], columns: Sequence[str]) -> list[Piece]:
    """Return all row groups that have rows, in the order of the files.

    Raises:
        InputMaterializationError: A file is not Parquet, or has no such column.
    """
    pieces: list[Piece] = []
    for path in paths:
        file = _opened(path)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            known = ", ".join(file.schema_arrow.names)
            raise InputMaterializationError(
                f"dataset file {path!r} has no column {', '.join(missing)}: it has {known}"
            )
        metadata = file.metadata
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            rows = group.num_rows
            if rows:
                row_bytes = max(1, group.total_byte_size // rows)
                pieces.append(Piece(path, index, rows, row_bytes))
        file.close()
    return pieces


class Rows:
    """Reads rows in order and knows where it is."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        columns: Sequence[str],
        *,
        piece: int = 0,
        row: int = 0,
        read_rows: int,
    ) -> None:
        """Begin somewhere.

        Args:
            pieces: In the order in which they are read.
            columns: Empty means all.
            piece: Index of the first to read.
            row: Rows of it to pass over.
            read_rows: Rows that are decoded at a time, or several times as many.
        """
        self.piece = piece
        self.row = row
        self._pieces = pieces
        self._columns = list(columns) or None
        self._read_rows = min(max(read_rows, 1), _MAX_READ_ROWS)
        self._chunks: Iterator[Any] | None = None
        self._left: Any = None
        self._file: Any = None
        self._path = ""

    def take(self, count: int, *, within_piece: bool = False) -> Any:
        """Return up to `count` rows as a record batch; fewer at the end, None without any.

        Args:
            count: At least 1.
            within_piece: Whether to stop where a row group ends.
        """
        import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]

        parts: list[Any] = []
        missing = count
        while missing and (chunk := self._chunk()) is not None:
            part = chunk.slice(0, missing)
            self._left = chunk.slice(part.num_rows) if part.num_rows < chunk.num_rows else None
            parts.append(part)
            missing -= part.num_rows
            self.row += part.num_rows
            if self.row >= self._pieces[self.piece].rows:
                self._next_piece()
                if within_piece:
                    break
        if len(parts) <= 1:
            return parts[0] if parts else None
        return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]

    def close(self) -> None:
        """Let the file go."""
        self._chunks, self._left = None, None
        if self._file is not None:
            self._file.close()
            self._file, self._path = None, ""

    def _chunk(self) -> Any:
        """Return what was decoded and is not taken; None at the end."""
        if self._left is None:
            if self.piece >= len(self._pieces):
                return None
            if self._chunks is None:
                self._chunks = self._open(self._pieces[self.piece], self.row)
            try:
                self._left = next(self._chunks)
            except StopIteration:
                piece = self._pieces[self.piece]
                raise InputMaterializationError(
                    f"dataset file {piece.path!r} has lost rows since it was opened"
                ) from None
            except Exception as error:
                raise _unreadable(self._pieces[self.piece].path, error) from error
        return self._left

    def _next_piece(self) -> None:
        self.piece += 1
        self.row = 0
        self._chunks, self._left = None, None
        if self.piece >= len(self._pieces) or self._pieces[self.piece].path != self._path:
            self.close()

    def _open(self, piece: Piece, skip: int) -> Iterator[Any]:
        if piece.path != self._path:
            self.close()
            self._file, self._path = _opened(piece.path), piece.path
        chunks = self._file.iter_batches(
            batch_size=self._decoded_rows(piece), row_groups=[piece.group], columns=self._columns
        )
        for chunk in chunks:
            if skip >= chunk.num_rows:
                skip -= chunk.num_rows
            else:
                yield chunk.slice(skip)
                skip = 0

    def _decoded_rows(self, piece: Piece) -> int:
        """Return how many rows to decode at a time: whole takes, so that none is put together."""
        fitting = min(_READ_BYTES // piece.row_bytes, _MAX_READ_ROWS)
        return max(1, fitting // self._read_rows) * self._read_rows


def _opened(path: str) -> Any:
    import pyarrow.parquet as pq  # type: ignore[import-not-found,import-untyped,unused-ignore]

    try:
        return pq.ParquetFile(path, memory_map=False, buffer_size=1 << 20, pre_buffer=False)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> InputMaterializationError:
    return InputMaterializationError(f"dataset file {path!r} cannot be read as Parquet: {error}")
