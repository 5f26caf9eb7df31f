"""What commands list: a table for a person, JSON for a program."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ago", "print_rows", "size_words"]

_MAX_CELL = 60


def print_rows(
    rows: Sequence[dict[str, Any]],
    columns: dict[str, Callable[[dict[str, Any]], object]],
    *,
    as_json: bool,
    name: str,
    nothing: str,
    more: dict[str, Any] | None = None,
    optional: frozenset[str] = frozenset(),
) -> None:
    """Print what was found on standard output.

    Args:
        rows: As the platform has them; these are what JSON shows.
        columns: Heading of each column, and its cell of a row.
        as_json: As the user asked; a pipe gets JSON anyway.
        name: Of the rows in JSON.
        nothing: What a person is told when there are none.
        more: Beside the rows in JSON.
        optional: Columns that are left out where no row has something in them.
    """
    if as_json or not os.isatty(sys.stdout.fileno()):
        import msgspec

        document = {name: rows, **(more or {})}
        print(msgspec.json.Encoder(enc_hook=str).encode(document).decode())
        return
    if not rows:
        print(nothing, file=sys.stderr)
        return
    cells = {name: [str(cell(row)) for row in rows] for name, cell in columns.items()}
    shown = [name for name in columns if name not in optional or set(cells[name]) != {"-"}]
    print(table([shown, *zip(*(cells[name] for name in shown), strict=True)]))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns; the last column is as long as it is."""
    cut = [
        [one if len(one) <= _MAX_CELL else one[: _MAX_CELL - 1] + "…" for one in row[:-1]]
        for row in rows
    ]
    widths = [max(len(row[index]) for row in cut) for index in range(len(rows[0]) - 1)]
    lines = []
    for cells, row in zip(cut, rows, strict=True):
        padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    return "\n".join(lines)


def ago(at: float | None, *, now: float | None = None) -> str:
    """Return how long ago something was, in its largest unit."""
    if not at:
        return "-"
    seconds = max(0.0, (time.time() if now is None else now) - at)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def size_words(size: int | None) -> str:
    return "-" if size is None else f"{size / 1024**2:.0f} MiB"
