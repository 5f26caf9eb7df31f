"""What `save_to_disk` of the `datasets` library wrote, read without that library.

A directory has a `state.json`, which lists its files of Arrow streams; one with several splits has
a `dataset_dict.json` and such a directory for each.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.dataset.documents import read_json
from gen_worker.conversion.dataset.schema import DatasetError, require_pyarrow
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["is_saved", "saved_files", "saved_rows"]

_SPLITS = "dataset_dict.json"
_STATE = "state.json"


def is_saved(root: Path) -> bool:
    return any((root / name).is_file() for name in (_SPLITS, _STATE))


def saved_files(root: Path, split: str) -> list[str]:
    """Return the files of a split, in their order; of the only one there is, whatever its name.

    Raises:
        DatasetError: There is no such split, or the lists of files are damaged.
        ValidationError: A list names a file outside of the directory.
    """
    if (root / _SPLITS).is_file():
        splits = read_json(root / _SPLITS).get("splits")
        known = [str(one) for one in splits] if isinstance(splits, list) else []
        if split not in known:
            raise DatasetError(
                f"{os.fspath(root)!r} has no split {split!r}: it has "
                f"{', '.join(map(repr, known)) or 'none'}",
                file=os.fspath(root),
            )
        root = root / safe_join("", split)
    listed = read_json(root / _STATE).get("_data_files")
    names = [one.get("filename") for one in listed or () if isinstance(one, dict)]
    if not names or not all(isinstance(name, str) for name in names):
        raise DatasetError(
            f"{os.fspath(root / _STATE)!r} lists no files", file=os.fspath(root / _STATE)
        )
    return [safe_join(root, str(name)) for name in names]


def saved_rows(files: Sequence[str], columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of files of Arrow streams; one batch of a file is in memory.

    Raises:
        DatasetError: A file is damaged or not there, or has no such column.
    """
    require_pyarrow()
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]

    for path in files:
        try:
            with pyarrow.OSFile(path) as file, pyarrow.ipc.open_stream(file) as batches:
                _check_columns(path, batches.schema.names, columns)
                for batch in batches:
                    kept = batch if columns is None else batch.select(list(columns))
                    yield from kept.to_pylist()
        except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(
                f"{path!r} is no whole Arrow stream: {error}", file=path, step="read"
            ) from error


def _check_columns(path: str, known: Sequence[str], columns: Sequence[str] | None) -> None:
    unknown = sorted(set(columns or ()) - set(known))
    if unknown:
        raise DatasetError(
            f"{path!r} has no column {unknown[0]!r}: it has {', '.join(known)}",
            file=path,
            column=unknown[0],
        )
