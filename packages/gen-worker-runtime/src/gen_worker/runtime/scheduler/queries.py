"""What is asked of a ledger, each with a connection that only reads. In the reading thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.runtime.scheduler.rows import records_by
from gen_worker.runtime.scheduler.schema import EVENT_BITS
from gen_worker.runtime.scheduler.values import RequestPage, StoredCall, StoredEvent

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from gen_worker.runtime.scheduler.values import RequestFilter, RequestRecord

__all__ = [
    "call_of",
    "events_of",
    "options_of",
    "page_of",
    "record_by_id",
    "record_by_key",
    "unfinished_after",
]

_MAX_LOOKED_AT = 10_000
"""Requests of one page, so that what few match does not hold up everything else."""


def record_by_id(connection: sqlite3.Connection, request_id: str) -> RequestRecord | None:
    found = records_by(connection, "request_id = ?", (request_id,))
    return found[0] if found else None


def record_by_key(connection: sqlite3.Connection, owner: str, key: str) -> RequestRecord | None:
    found = records_by(connection, "key <> '' AND owner = ? AND key = ?", (owner, key))
    return found[0] if found else None


def options_of(connection: sqlite3.Connection, seqs: Sequence[int]) -> dict[int, bytes]:
    """Return the options of requests."""
    named = msgspec.json.encode(seqs).decode()
    query = "SELECT seq, options FROM calls WHERE seq IN (SELECT value FROM json_each(?))"
    return dict(connection.execute(query, (named,)).fetchall())


def call_of(connection: sqlite3.Connection, seq: int) -> StoredCall | None:
    row = connection.execute("SELECT payload, options FROM calls WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else StoredCall(*row)


def events_of(
    connection: sqlite3.Connection, seq: int, after: int, limit: int, max_bytes: int
) -> tuple[StoredEvent, ...]:
    """Return events in order, as many as fit and at least one, if there are any."""
    base = seq << EVENT_BITS
    rows = connection.execute(
        "SELECT key, name, data FROM events WHERE key > ? AND key < ? ORDER BY key LIMIT ?",
        (base + after, base + (1 << EVENT_BITS), limit),
    )
    found: list[StoredEvent] = []
    size = 0
    for key, name, data in rows:
        size += len(data)
        if found and size > max_bytes:
            break
        found.append(StoredEvent(key - base, name, data))
    rows.close()
    return tuple(found)


def unfinished_after(
    connection: sqlite3.Connection, seq: int, limit: int
) -> tuple[RequestRecord, ...]:
    where = "ended_at IS NULL AND seq > ? ORDER BY seq LIMIT ?"
    return records_by(connection, where, (seq, limit))


def page_of(
    connection: sqlite3.Connection, wanted: RequestFilter, before: int | None, limit: int
) -> RequestPage:
    if before is None:
        (last,) = connection.execute("SELECT ifnull(max(seq), 0) FROM requests").fetchone()
        before = last + 1
    floor = max(before - _MAX_LOOKED_AT, 0)
    conditions = ["seq < ?", "seq >= ?"]
    parameters: list[Any] = [before, floor]
    for name in wanted.__struct_fields__:
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(f"{name} = ?")
            parameters.append(value)
    where = f"{' AND '.join(conditions)} ORDER BY seq DESC LIMIT ?"
    records = records_by(connection, where, (*parameters, limit))
    if len(records) == limit:
        return RequestPage(records, records[-1].seq)
    (first,) = connection.execute("SELECT ifnull(min(seq), 0) FROM requests").fetchone()
    return RequestPage(records, floor if floor > first else 0)
