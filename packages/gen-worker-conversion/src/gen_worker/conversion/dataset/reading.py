"""A dataset on this machine: rows of one split, read as they are asked for."""

from __future__ import annotations

import json
import os
import random
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.dataset.documents import read_json
from gen_worker.conversion.dataset.saved import is_saved, saved_files, saved_rows
from gen_worker.conversion.dataset.schema import DatasetError, require_pyarrow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Dataset"]

_TEXT_COLUMNS = ("text", "content", "prompt", "input", "sentence", "article")
_PROMPT_COLUMNS = ("prompt", "category", "length_bucket", "seed")
_INFO_FILES = ("dataset_info.json", "manifest.json")
_OLDER_KINDS = {"calibration_dataset": "prompt_corpus"}
_BATCH_ROWS = 256


class Dataset:
    """One split of a dataset; nothing in its directory is ever changed."""

    def __init__(
        self,
        ref: str,
        split: str,
        path: str | os.PathLike[str],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe it; nothing is read yet.

        Args:
            ref: As the job gave it.
            split: Such as `train`.
            path: Its directory.
            attributes: As the job gave them.
        """
        self.ref = ref
        self.split = split
        self.path = Path(path)
        self.attributes = dict(attributes or {})

    def __repr__(self) -> str:
        return f"<Dataset {self.ref or os.fspath(self.path)!r} split={self.split!r}>"

    @cached_property
    def _info(self) -> dict[str, Any]:
        for name in _INFO_FILES:
            path = self.path / name
            if path.is_file():
                return read_json(path)
        return {}

    def dataset_info(self) -> dict[str, Any]:
        """Return `dataset_info.json`, or the older `manifest.json`; empty without one."""
        return dict(self._info)

    def manifest(self) -> dict[str, Any]:
        """Do as `dataset_info`, under its older name."""
        return self.dataset_info()

    @property
    def kind(self) -> str:
        kind = str(self._info.get("kind") or "")
        return _OLDER_KINDS.get(kind, kind)

    def is_prompt_corpus(self) -> bool:
        return self.kind == "prompt_corpus"

    def is_calibration_dataset(self) -> bool:
        """Do as `is_prompt_corpus`, under its older name."""
        return self.is_prompt_corpus()

    def is_eval_set(self) -> bool:
        return self.kind == "eval_set"

    def parquet_shards(self) -> list[Path]:
        """Return the files of this split, sorted; empty for a dataset without Parquet files.

        Raises:
            DatasetError: There are some, and none of this split.
        """
        shards = sorted((self.path / "data").glob("*.parquet"))
        ours = [path for path in shards if _split_of(path) == self.split]
        if shards and not ours:
            splits = sorted({_split_of(path) for path in shards})
            raise DatasetError(
                f"dataset {self.ref or os.fspath(self.path)!r} has no split {self.split!r}: it has "
                f"{', '.join(map(repr, splits))}",
                file=os.fspath(self.path),
            )
        return ours

    def iter_rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows with all columns, or some; a few hundred are in memory.

        Raises:
            DatasetError: A file is damaged, or there are no rows of this split.
        """
        shards = self.parquet_shards()
        if shards:
            return _parquet_rows(shards, columns)
        if is_saved(self.path):
            return saved_rows(saved_files(self.path, self.split), columns)
        return _selected(self._lines(), columns)

    def iter_examples(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, also those of a dataset that the `datasets` library saved."""
        return self.iter_rows()

    def iter_prompts(self) -> Iterator[dict[str, Any]]:
        """Yield the prompts, with `category`, `length_bucket` and `seed` where there are any.

        Raises:
            DatasetError: There is no column `prompt`.
        """
        for number, row in enumerate(self.iter_rows()):
            if row.get("prompt") is None:
                raise DatasetError(
                    f"row {number} of {self!r} has no prompt: it has {', '.join(row)}",
                    column="prompt",
                    file=os.fspath(self.path),
                )
            yield {name: row[name] for name in _PROMPT_COLUMNS if name in row}

    def as_dataloader(
        self, *, tokenizer: Any, n: int, seq_length: int, batch_size: int = 1, seed: int = 42
    ) -> Any:
        """Return a torch `DataLoader` of tokenised text, padded to `seq_length`.

        Args:
            tokenizer: Of transformers; without a padding token it pads with its end token.
            n: Rows, the first of a shuffle.
            seq_length: Tokens of each.
            batch_size: Rows in one batch.
            seed: Of the shuffle.
        """
        from torch.utils.data import (  # type: ignore[import-not-found,unused-ignore]
            DataLoader,
        )

        texts = self.sample_texts(n, seed)
        if getattr(tokenizer, "pad_token", "") is None:
            tokenizer.pad_token = tokenizer.eos_token
        made = tokenizer(
            texts,
            truncation=True,
            padding="max_length",
            max_length=seq_length,
            return_tensors="pt",
        )
        rows: Any = [{name: values[i] for name, values in made.items()} for i in range(len(texts))]
        return DataLoader(rows, batch_size=batch_size)

    def as_hf_dataset(self, *, tokenizer: Any = None, max_seq_length: int | None = None) -> Any:
        """Return it as one of the `datasets` library, raw or tokenised.

        Raises:
            DatasetError: The library is not installed.
        """
        datasets = _datasets_library()
        shards = [os.fspath(path) for path in self.parquet_shards()]
        if shards:
            found = datasets.Dataset.from_parquet(shards)
        elif is_saved(self.path):
            found = self._saved()
        else:
            found = datasets.Dataset.from_list(list(self.iter_rows()))
        if tokenizer is None:
            return found
        column = self._text_column(found[0])
        return found.map(
            lambda rows: tokenizer(
                rows[column], truncation=max_seq_length is not None, max_length=max_seq_length
            ),
            batched=True,
        )

    def verify(self) -> int:
        """Check that the files of the split are whole and as `dataset_info.json` says.

        Of Parquet files the ends are read; of older forms everything.

        Returns:
            The number of rows.

        Raises:
            DatasetError: They are not.
        """
        shards = self.parquet_shards()
        rows = 0 if shards else sum(1 for _ in self.iter_rows())
        for path in shards:
            facts = _opened(path)
            rows += facts.metadata.num_rows
            missing = sorted(set(self._features()) - set(facts.schema_arrow.names))
            if missing:
                raise DatasetError(
                    f"{os.fspath(path)!r} lacks the columns {missing!r} of its dataset_info.json",
                    file=os.fspath(path),
                    column=missing[0],
                    step="verify",
                )
        splits = self._info.get("splits")
        told = (splits.get(self.split) or {}).get("num_rows") if isinstance(splits, dict) else None
        if told is not None and told != rows:
            raise DatasetError(
                f"{self!r} has {rows} rows, its dataset_info.json says {told}",
                file=os.fspath(self.path),
                step="verify",
            )
        return rows

    def _features(self) -> dict[str, Any]:
        features = self._info.get("features")
        return features if isinstance(features, dict) else {}

    def sample_texts(self, count: int, seed: int) -> list[str]:
        """Return the text of rows, the first `count` of a seeded shuffle, in its order.

        Raises:
            DatasetError: There is no column of text; see `iter_rows`, too.
        """
        column = self._text_column(next(self.iter_rows(), {}))
        total = sum(1 for _ in self.iter_rows([column]))
        chosen = random.Random(seed).sample(range(total), min(count, total))
        places = {row: place for place, row in enumerate(chosen)}
        texts = [""] * len(places)
        for number, row in enumerate(self.iter_rows([column])):
            if number in places:
                texts[places[number]] = str(row[column] or "")
        return texts

    def _text_column(self, row: Mapping[str, Any]) -> str:
        types = self._features()
        texts = [
            name
            for name, value in row.items()
            if isinstance(value, str) or (value is None and types.get(name) == "string")
        ]
        for name in (*_TEXT_COLUMNS, *texts):
            if name in texts:
                return name
        raise DatasetError(
            f"{self!r} has no text: its columns are {', '.join(row) or 'none, as it has no rows'}",
            file=os.fspath(self.path),
        )

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the oldest form: lines of JSON."""
        lines = self.path / "prompts.jsonl"
        if not lines.is_file():
            raise DatasetError(
                f"{os.fspath(self.path)!r} has no rows: it needs data/<split>-00000.parquet",
                file=os.fspath(self.path),
            )
        with open(lines, encoding="utf-8") as file:
            yield from (_row(text, number, lines) for number, text in enumerate(file, 1))

    def _saved(self) -> Any:
        found = _datasets_library().load_from_disk(os.fspath(self.path))
        if not hasattr(found, "keys"):
            return found
        if self.split not in found:
            raise DatasetError(
                f"{self!r} is not there: there are {', '.join(found)}", file=os.fspath(self.path)
            )
        return found[self.split]


def _split_of(path: Path) -> str:
    """Return `train` of `train-00000.parquet` and `train-00000-of-00002.parquet`."""
    return path.stem.partition("-")[0]


def _parquet_rows(
    shards: Sequence[Path], columns: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    for path in shards:
        file = _opened(path)
        unknown = sorted(set(columns or ()) - set(file.schema_arrow.names))
        if unknown:
            raise DatasetError(
                f"{os.fspath(path)!r} has no column {unknown[0]!r}: it has "
                f"{', '.join(file.schema_arrow.names)}",
                file=os.fspath(path),
                column=unknown[0],
            )
        try:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()
        except (ValueError, OSError) as error:
            raise _damaged(path, error) from error


def _opened(path: Path) -> Any:
    require_pyarrow()
    import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{os.fspath(path)!r} is no whole Parquet file: {error}", file=os.fspath(path), step="read"
    )


def _selected(
    rows: Iterator[dict[str, Any]], columns: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row if columns is None else {name: row.get(name) for name in columns}


def _row(text: str, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        row = error
    if not isinstance(row, dict):
        raise DatasetError(
            f"line {number} of {os.fspath(path)!r} is no JSON object", file=str(path)
        )
    return row


def _datasets_library() -> Any:
    try:
        import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise DatasetError("this needs the datasets library: pip install datasets") from error
    return datasets
