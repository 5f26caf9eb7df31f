"""Rows written to Parquet files, each of which appears when it is whole; the info comes last."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.dataset.schema import DatasetError, arrow_schema
from gen_worker.conversion.writer.output_file import OutputFile, write_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

__all__ = ["DatasetWriter"]

_SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,63}")
_BATCH_ROWS = 1024
_BATCH_BYTES = 32 << 20
_SHARD_BYTES = 256 << 20
_INFO = "dataset_info.json"


class DatasetWriter:
    """Writes the rows of one dataset; one batch of rows is in memory.

    As a context manager it closes at the end of the block, and removes everything if that fails.
    The same rows give the same files.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        schema: Mapping[str, str],
        *,
        kind: str = "",
        info: Mapping[str, Any] | None = None,
        max_shard_bytes: int = _SHARD_BYTES,
        on_file: Callable[[str], None] | None = None,
    ) -> None:
        """Begin a dataset.

        Args:
            directory: Made; it must be new or empty.
            schema: Types by column: `string`, `int64`, `float32`, `bool`, `binary`, `image`, or
                `list<…>` of one.
            kind: Such as `prompt_corpus` or `eval_set`.
            info: Further entries of `dataset_info.json`.
            max_shard_bytes: About how much of a split goes into one file.
            on_file: Called with the path of each finished file, such as `ctx.publish_early`.

        Raises:
            DatasetError: A type is unknown, or the directory has files.
        """
        self.directory = Path(directory)
        self.features = dict(schema)
        self._schema = arrow_schema(schema)
        self._kind = kind
        self._info = dict(info or {})
        self._max_shard_bytes = max_shard_bytes
        self._on_file = on_file
        self._splits: dict[str, _Split] = {}
        self._is_closed = False
        if self.directory.exists() and any(self.directory.iterdir()):
            raise DatasetError(
                f"{os.fspath(self.directory)!r} is not empty: choose a new directory",
                file=os.fspath(self.directory),
            )
        (self.directory / "data").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, row: Mapping[str, Any], *, split: str = "train") -> None:
        """Add a row; a column that it lacks is null.

        Raises:
            DatasetError: It has other columns, or a value of another type; or the split's name is
                no plain word.
            OutputSpaceError: The disk is full.
            RuntimeError: The writer is closed.
        """
        if self._is_closed:
            raise RuntimeError("the dataset is closed: no more rows can be written")
        unknown = sorted(set(row) - set(self.features))
        if unknown:
            raise DatasetError(
                f"row {self.num_rows} has columns {unknown!r} that the schema lacks: it has "
                f"{', '.join(map(repr, self.features))}",
                column=unknown[0],
                step="write",
            )
        if split not in self._splits:
            if not _SPLIT.fullmatch(split):
                raise DatasetError(f"{split!r:.100} is no name of a split: use a-z 0-9 _ .")
            self._splits[split] = _Split(self.directory / "data", split, self._schema)
        known = self._splits[split]
        known.add({name: _value(row.get(name), text) for name, text in self.features.items()})
        if known.shard_bytes >= self._max_shard_bytes:
            self._finish_shard(known)

    def write_all(self, rows: Iterable[Mapping[str, Any]], *, split: str = "train") -> None:
        """Add rows; see `write`."""
        for row in rows:
            self.write(row, split=split)

    @property
    def num_rows(self) -> int:
        return sum(split.rows for split in self._splits.values())

    def close(self) -> Path:
        """Finish the files and return the directory, which is a whole dataset from now on.

        Raises:
            DatasetError: It has no rows, or what was written does not read back as written.
            OutputSpaceError: The disk is full.
        """
        if self._is_closed:
            return self.directory
        if not self._splits:
            self.abort()
            raise DatasetError("a dataset without rows is none: write one first", step="write")
        try:
            for split in self._splits.values():
                self._finish_shard(split)
            self._write_info()
            from gen_worker.conversion.dataset.reading import Dataset

            for name in self._splits:
                Dataset("", name, self.directory).verify()
        except BaseException:
            self.abort()
            raise
        self._is_closed = True
        return self.directory

    def abort(self) -> None:
        """Remove everything that was written."""
        self._is_closed = True
        for split in self._splits.values():
            split.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _finish_shard(self, split: _Split) -> None:
        path = split.finish()
        if path and self._on_file is not None:
            self._on_file(path)

    def _write_info(self) -> None:
        info = {
            **self._info,
            "features": self.features,
            "num_rows": self.num_rows,
            "splits": {name: {"num_rows": one.rows} for name, one in self._splits.items()},
        }
        info |= {"kind": self._kind} if self._kind else {}
        path = os.fspath(self.directory / _INFO)
        with OutputFile(path) as file:
            file.write(json.dumps(info, indent=2, sort_keys=True).encode() + b"\n")
            file.finish()
        if self._on_file is not None:
            self._on_file(path)


class _Split:
    """The files of one split, and the rows that wait for the next batch."""

    def __init__(self, directory: Path, name: str, schema: Any) -> None:
        self.name = name
        self.rows = 0
        self.shard_bytes = 0
        self._directory = directory
        self._schema = schema
        self._shards = 0
        self._waiting: list[dict[str, Any]] = []
        self._waiting_bytes = 0
        self._file: OutputFile | None = None
        self._writer: Any = None

    def add(self, row: dict[str, Any]) -> None:
        size = sum(map(_size_of, row.values()))
        self._waiting.append(row)
        self._waiting_bytes += size
        self.shard_bytes += size
        self.rows += 1
        if len(self._waiting) >= _BATCH_ROWS or self._waiting_bytes >= _BATCH_BYTES:
            self._flush()

    def finish(self) -> str:
        """Make the file under way visible, and return its path; empty when there is none."""
        self._flush()
        if self._file is None:
            return ""
        file, self._file = self._file, None
        try:
            self._writer.close()
            file.finish()
        except OSError as error:
            raise write_failure(file.path, error) from error
        finally:
            file.__exit__(None, None, None)
        self._shards += 1
        self.shard_bytes = 0
        return file.path

    def close(self) -> None:
        """Give up the file under way."""
        file, self._file = self._file, None
        if file is not None:
            file.__exit__(None, None, None)

    def _flush(self) -> None:
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

        rows, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not rows:
            return
        table = pyarrow.Table.from_arrays(
            [self._column(field, rows) for field in self._schema], schema=self._schema
        )
        try:
            if self._file is None:
                path = self._directory / f"{self.name}-{self._shards:05d}.parquet"
                self._file = OutputFile(path)
                sink = pyarrow.PythonFile(_Sink(self._file), mode="w")
                self._writer = pyarrow.parquet.ParquetWriter(sink, self._schema)
            self._writer.write_table(table)
        except OSError as error:
            raise write_failure(os.fspath(self._directory), error) from error

    def _column(self, field: Any, rows: list[dict[str, Any]]) -> Any:
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]

        try:
            return pyarrow.array([row[field.name] for row in rows], type=field.type)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError) as error:
            raise DatasetError(
                f"column {field.name!r} of split {self.name!r} takes {field.type}: {error}",
                column=field.name,
                step="write",
            ) from error


class _Sink:
    """An output file as Arrow writes to one; only `finish` closes it."""

    closed = False

    def __init__(self, file: OutputFile) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._file.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self._file.size_bytes

    def flush(self) -> None:
        """What is written is at the system already."""

    def close(self) -> None:
        self.closed = True


def _value(value: Any, text: str) -> Any:
    """Let an image be its bytes alone."""
    is_bytes = isinstance(value, (bytes, bytearray, memoryview))
    return {"bytes": bytes(value), "path": None} if text == "image" and is_bytes else value


def _size_of(value: Any) -> int:
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size_of, value.values()))
    return sum(map(_size_of, value)) if isinstance(value, (list, tuple)) else 8
