"""Batches as authors give them: columns, rows, or tensors; how many, in parts, on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["columns_of", "moved", "rows_of", "split"]


def columns_of(raw: Any) -> Any:
    """Return a record batch as columns by name; anything else as it is."""
    to_columns = getattr(raw, "to_pydict", None)
    return to_columns() if callable(to_columns) else raw


def rows_of(batch: Any) -> int:
    """Return how many rows a batch has; 0 where nothing in it can be divided."""
    if _is_column(batch):
        return len(batch)
    return next((rows for one in _parts_of(batch) if (rows := rows_of(one))), 0)


def split(batch: Any, parts: int) -> list[Any]:
    """Divide a batch along the first dimension of what it holds.

    Tensors, arrays and lists with as many rows as the first of them are divided, in mappings and
    sequences; everything else goes with each part.

    Args:
        batch: A mapping or sequence of columns, a list of rows, or one tensor.
        parts: At most as many as there are rows.
    """
    rows = rows_of(batch)
    each, more = divmod(rows, parts)
    stops = [each * (index + 1) + min(index + 1, more) for index in range(parts)]
    starts = [0, *stops]
    return [_slice(batch, rows, *bounds) for bounds in zip(starts, stops, strict=False)]


def moved(batch: Any, device: Any) -> Any:
    """Return a batch with its tensors on a device."""
    if hasattr(batch, "is_floating_point") and hasattr(batch, "to"):
        return batch.to(device, non_blocking=True)
    return _mapped(batch, lambda one: moved(one, device))


def _slice(batch: Any, rows: int, start: int, stop: int) -> Any:
    if _is_column(batch):
        return batch[start:stop] if len(batch) == rows else batch
    return _mapped(batch, lambda one: _slice(one, rows, start, stop))


def _is_column(value: Any) -> bool:
    """Tell whether a value has one entry per row: a tensor, or a list of anything but tensors."""
    if isinstance(value, list):
        return not any(_is_tensor(one) for one in value)
    return _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    return bool(getattr(value, "shape", ())) and hasattr(value, "dtype")


def _parts_of(batch: Any) -> list[Any]:
    if isinstance(batch, Mapping):
        return list(batch.values())
    return list(batch) if isinstance(batch, (list, tuple)) else []


def _mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(batch, Mapping):
        return {name: change(one) for name, one in batch.items()}
    if isinstance(batch, tuple):
        items = [change(one) for one in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else tuple(items)
    if isinstance(batch, list):
        return [change(one) for one in batch]
    return batch
