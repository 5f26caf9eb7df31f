"""Columns of a batch as lists: the same for Arrow record batches and for batches of a job spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gen_worker.errors import ValidationError

__all__ = ["columns_of", "numbers", "texts"]


def columns_of(batch: Any) -> dict[str, list[Any]]:
    """Return the columns of a batch by name.

    Args:
        batch: An Arrow record batch or table, a mapping of names to lists, or a list of rows that
            are mappings.

    Raises:
        ValidationError: It is none of these, or its columns are not of one length.
    """
    if callable(getattr(batch, "to_pydict", None)):
        return dict(batch.to_pydict())
    if isinstance(batch, Mapping):
        found = {str(name): _column(str(name), values) for name, values in batch.items()}
    elif isinstance(batch, Sequence) and batch and all(isinstance(row, Mapping) for row in batch):
        names = dict.fromkeys(str(name) for row in batch for name in row)
        found = {name: [row.get(name) for row in batch] for name in names}
    else:
        raise ValidationError(
            f"a batch is {type(batch).__name__}, and has to be columns: a mapping of names to "
            "lists, or a list of rows that are mappings"
        )
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise ValidationError(f"the columns of a batch differ in length: {lengths}")
    return found


def texts(columns: Mapping[str, list[Any]], name: str) -> list[str]:
    """Return a column of texts.

    Raises:
        ValidationError: There is no such column, or a row of it is no text, or empty; all such
            rows are named.
    """
    values = _named(columns, name)
    wrong = [
        f"row {row} is {_shown(value)}"
        for row, value in enumerate(values)
        if not isinstance(value, str) or not value.strip()
    ]
    if wrong:
        raise ValidationError(f"column {name!r} has to hold texts: {_some(wrong)}")
    return values


def numbers(columns: Mapping[str, list[Any]], name: str) -> list[float]:
    """Return a column of numbers.

    Raises:
        ValidationError: There is no such column, or a row of it is no number; all are named.
    """
    values = _named(columns, name)
    wrong = [
        f"row {row} is {_shown(value)}"
        for row, value in enumerate(values)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value
    ]
    if wrong:
        raise ValidationError(f"column {name!r} has to hold numbers: {_some(wrong)}")
    return [float(value) for value in values]


def _named(columns: Mapping[str, list[Any]], name: str) -> list[Any]:
    if name not in columns:
        known = ", ".join(map(repr, columns)) or "none"
        raise ValidationError(f"the data has no column {name!r}: its columns are {known}")
    return columns[name]


def _column(name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ValidationError(
            f"column {name!r} is {type(values).__name__}, and has to be a list with an entry for "
            "each row"
        )
    return list(values)


def _shown(value: Any) -> str:
    return "empty" if isinstance(value, str) and not value.strip() else repr(value)[:60]


def _some(wrong: Sequence[str]) -> str:
    """Return the first of many mistakes, and how many more there are."""
    first = ", ".join(wrong[:5])
    return first if len(wrong) <= 5 else f"{first} and {len(wrong) - 5} more"
