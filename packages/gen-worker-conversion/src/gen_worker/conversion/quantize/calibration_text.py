"""What a calibration reads: rows of text, as windows of tokens that all have one length."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.conversion.errors import ConversionInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CalibrationData", "calibration_data", "token_windows"]

_OTHER_FILES = frozenset({".parquet", ".arrow", ".json", ".jsonl", ".csv", ".safetensors", ".gz"})


class CalibrationData(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides about the windows, besides the tokenizer."""

    path: str
    """Of a dataset's directory, of which the split `train` is read, or of a file of text, a row in
    each line."""
    samples: int = 128
    """Rows that are read."""
    length: int = 512
    """Tokens of a window at most; a longer row is cut."""
    seed: int = 0
    """Which rows these are, and in which order."""
    digest: str = ""
    """`blake3:<hex>` of the files."""


def calibration_data(
    path: str | os.PathLike[str], *, samples: int = 128, length: int = 512, seed: int = 0
) -> CalibrationData:
    """Name the data of a calibration; reads all of them for the digest.

    Of a file of text no more samples are asked for than it has rows.

    Raises:
        ConversionInputError: There is nothing of the kind, or fewer than one sample or token is
            asked for.
    """
    place = os.path.abspath(os.fspath(path))
    problems = [
        f"{what} must be at least 1, not {value}"
        for what, value in (("samples", samples), ("length", length))
        if value < 1
    ]
    if not os.path.exists(place):
        problems.append(f"{os.fspath(path)!r} does not exist")
    elif os.path.isfile(place) and os.path.splitext(place)[1].lower() in _OTHER_FILES:
        problems.append(f"{os.fspath(path)!r} is no file of text")
    elif not any(names for _, _, names in os.walk(place)) and os.path.isdir(place):
        problems.append(f"{os.fspath(path)!r} is empty")
    rows = 0
    if not problems and os.path.isfile(place):
        rows = sum(1 for _ in _lines(place))
        problems += [] if rows else [f"{os.fspath(path)!r} has no text"]
    if problems:
        what = "give a dataset's directory or a file of text, a row in each line"
        raise ConversionInputError(
            f"calibration: {'; '.join(problems)}: {what}", file=place, step="calibrate"
        )
    count = min(samples, rows) if rows else samples
    return CalibrationData(
        path=place, samples=count, length=length, seed=seed, digest=_digest(place)
    )


def token_windows(data: CalibrationData, tokenizer: Any, *, max_length: int = 0) -> Any:
    """Return int64 tokens `(windows, length)`: rows one after another, cut into equal windows.

    Windows without padding need no mask, and say what the model sees most: full context.

    Args:
        data: What to read.
        tokenizer: Of transformers.
        max_length: What the model takes at most; 0 where it does not say.

    Raises:
        ConversionInputError: There is no text in it.
        DatasetError: The dataset is damaged, or has no text.
    """
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    limits = (data.length, max_length or data.length, int(tokenizer.model_max_length))
    length = min(limits)
    tokens: list[int] = []
    for text in _texts(data):
        if text.strip():
            tokens += tokenizer(text, truncation=True, max_length=length)["input_ids"]
    if not tokens:
        raise ConversionInputError(
            f"calibration: {data.path!r} has no text: give other data",
            file=data.path,
            step="calibrate",
        )
    length = min(length, len(tokens))
    count = len(tokens) // length
    return torch.tensor(tokens[: count * length], dtype=torch.int64).view(count, length)


def _texts(data: CalibrationData) -> list[str]:
    if os.path.isdir(data.path):
        from gen_worker.conversion.dataset.reading import Dataset

        return Dataset("", "train", data.path).sample_texts(data.samples, data.seed)
    total = sum(1 for _ in _lines(data.path))
    chosen = random.Random(data.seed).sample(range(total), min(data.samples, total))
    places = {line: place for place, line in enumerate(chosen)}
    texts = [""] * len(places)
    for number, line in enumerate(_lines(data.path)):
        if number in places:
            texts[places[number]] = line
    return texts


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from (line.rstrip("\n") for line in file if line.strip())
    except UnicodeDecodeError as error:
        raise ConversionInputError(
            f"calibration: {path!r} is no text in UTF-8: give a dataset's directory, or text",
            file=path,
            step="calibrate",
        ) from error


def _digest(path: str) -> str:
    from blake3 import blake3

    from gen_worker.conversion.provenance import hashes_of

    text = msgspec.json.encode(sorted(hashes_of(path).items()))
    return f"blake3:{blake3(text).hexdigest()}"
