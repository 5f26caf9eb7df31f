"""Requests as rows, and rows by the hundred.

Each statement costs the writing thread the interpreter's lock, which it has to win back from a busy
loop. So rows are written many at a time: beside a busy thread batches of 256 take half as long as
with a statement for each.
"""

from __future__ import annotations

import functools
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import astuple

from gen_worker.runtime.scheduler.values import Ending, RequestRecord

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["COLUMNS", "insert", "record_of", "records_by", "row_of", "update_requests"]

_FIELDS = RequestRecord.__struct_fields__
COLUMNS = ", ".join(_FIELDS)
"""Of `requests`, in the order of the record's fields."""
_STABLE = (
    "seq request_id owner endpoint function tag release_id digest priority timeout_ms deadline_at"
    " created_at"
).split()
_CHANGING = [field for field in _FIELDS if field not in _STABLE]
_changing = itemgetter(0, *map(_FIELDS.index, _CHANGING))
"""Takes the seq and what changes out of a row."""
_UPDATE = (
    "UPDATE requests SET "
    + ", ".join(f"{field} = new.column{number}" for number, field in enumerate(_CHANGING, 2))
    + " FROM (VALUES {}) AS new WHERE seq = new.column1"
)
_SIZES = (64, 16, 4, 1)
"""Rows of one statement: few texts, so that each is compiled once."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ending).decode


def row_of(record: RequestRecord) -> tuple[Any, ...]:
    """Return a record as a row."""
    row = astuple(record)
    return row if record.ending is None else (*row[:-1], _encode(record.ending))


def record_of(row: Sequence[Any]) -> RequestRecord:
    """Return a row of `COLUMNS` as a record."""
    fields = row if row[-1] is None else (*row[:-1], _decode(row[-1]))
    return RequestRecord(*fields)


def records_by(
    connection: sqlite3.Connection, where: str, parameters: Sequence[Any]
) -> tuple[RequestRecord, ...]:
    """Return the records a condition holds for."""
    found = connection.execute(f"SELECT {COLUMNS} FROM requests WHERE {where}", parameters)
    return tuple(map(record_of, found))


def insert(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows into all columns of a table."""
    for some in _pieces(rows):
        values = _placeholders(len(some), len(some[0]))
        connection.execute(f"INSERT INTO {table} VALUES {values}", list(chain.from_iterable(some)))


def update_requests(connection: sqlite3.Connection, records: Iterable[RequestRecord]) -> None:
    """Write what changes in requests that are there."""
    for some in _pieces([_changing(row_of(record)) for record in records]):
        values = _placeholders(len(some), len(some[0]))
        connection.execute(_UPDATE.format(values), list(chain.from_iterable(some)))


def _pieces(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    start = 0
    for size in _SIZES:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


@functools.cache
def _placeholders(rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * rows)
