"""Deliveries in the scheduler's database; what changes them is inside of a transaction.

What a request has come to is always read from its own row, never believed: a delivery that was
promised becomes due however often, and by whomever, it is asked after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.runtime.scheduler.webhooks.values import Delivery

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Sequence

    from gen_worker.runtime.scheduler.webhooks.values import DeliveryState

__all__ = [
    "Promise",
    "Settled",
    "Turn",
    "advance",
    "due",
    "forget",
    "next_due",
    "of_request",
    "pending",
    "promise",
    "settle",
]

_COLUMNS = ", ".join(Delivery._fields)
_MAX_FORGOTTEN = 1000
"""At once."""
_WANTED = "(:seqs IS NULL OR seq IN (SELECT value FROM json_each(:seqs)))"
_ADVANCE = f"""
UPDATE webhooks SET state = 'pending', happened_at = :now, next_at = :now
WHERE state = 'waiting' AND {_WANTED} AND EXISTS (
    SELECT 1 FROM requests WHERE requests.seq = webhooks.seq
    AND CASE webhooks.event WHEN 'started' THEN started_at ELSE ended_at END IS NOT NULL
)
"""
_DROP = f"""
DELETE FROM webhooks
WHERE state = 'waiting' AND {_WANTED} AND NOT EXISTS (
    SELECT 1 FROM requests WHERE requests.seq = webhooks.seq AND ended_at IS NULL
)
"""
"""What never began, or is not kept any more."""
_DUE = f"""
SELECT {_COLUMNS}, origin, owner FROM webhooks
WHERE state = 'pending' AND next_at <= :now
  AND origin NOT IN (SELECT value FROM json_each(:full))
  AND (:only IS NULL OR origin IN (SELECT value FROM json_each(:only)))
ORDER BY next_at LIMIT :limit
"""
_SETTLE = """
UPDATE webhooks SET state = ?, attempts = ?, next_at = ?, last_at = ?, last_status = ?,
    last_error = ?
WHERE seq = ? AND event = ? AND state = 'pending'
"""
_GIVE_UP = """
UPDATE webhooks SET state = 'gone', last_at = ? WHERE seq = ? AND state IN ('waiting', 'pending')
"""


class Promise(NamedTuple):
    """That one event of a request will be told."""

    seq: int
    event: str
    request_id: str
    webhook_id: str
    owner: str
    url: str
    origin: str


class Turn(NamedTuple):
    """A delivery that is due."""

    delivery: Delivery
    origin: str
    owner: str


class Settled(NamedTuple):
    """What became of an attempt."""

    seq: int
    event: str
    state: DeliveryState
    attempts: int
    next_at: float
    last_at: float
    last_status: int
    last_error: str


def promise(connection: sqlite3.Connection, promises: Iterable[Promise]) -> None:
    """Note promises; those that are known stay as they are."""
    connection.executemany(
        "INSERT OR IGNORE INTO webhooks VALUES (?, ?, ?, ?, ?, ?, ?, 'waiting', 0, NULL, 0.0, NULL,"
        " 0, '')",
        promises,
    )


def advance(connection: sqlite3.Connection, now: float, seqs: Collection[int] | None) -> int:
    """Have what has happened be told, and return of how many requests; None looks at all."""
    named = None if seqs is None else msgspec.json.encode(list(seqs)).decode()
    values = {"seqs": named, "now": now}
    count = connection.execute(_ADVANCE, values).rowcount
    connection.execute(_DROP, values)
    return count


def settle(connection: sqlite3.Connection, settled: Settled) -> None:
    """Note what became of an attempt; who is gone is told nothing more of this request."""
    connection.execute(_SETTLE, (*settled[2:], *settled[:2]))
    if settled.state == "gone":
        connection.execute(_GIVE_UP, (settled.last_at, settled.seq))


def forget(connection: sqlite3.Connection, before: float) -> bool:
    """Forget some of what was over before then; return whether there may be more."""
    query = (
        "DELETE FROM webhooks WHERE (seq, event) IN (SELECT seq, event FROM webhooks"
        " WHERE state IN ('delivered', 'failed', 'gone') AND last_at < ? LIMIT ?)"
    )
    return connection.execute(query, (before, _MAX_FORGOTTEN)).rowcount == _MAX_FORGOTTEN


# -- questions -------------------------------------------------------------------------------------


def due(
    connection: sqlite3.Connection,
    now: float,
    *,
    full: Collection[str],
    only: Collection[str] | None,
    limit: int,
) -> Sequence[Turn]:
    """Return deliveries that are due, the earliest first.

    Args:
        connection: Reads.
        now: Unix time.
        full: Origins that have as many attempts under way as they may.
        only: The origins whose turn it may be; None for all.
        limit: At most so many.
    """
    rows = connection.execute(
        _DUE,
        {
            "now": now,
            "full": msgspec.json.encode(list(full)).decode(),
            "only": None if only is None else msgspec.json.encode(list(only)).decode(),
            "limit": limit,
        },
    )
    return [Turn(Delivery(*row[:-2]), row[-2], row[-1]) for row in rows]


def next_due(connection: sqlite3.Connection, after: float) -> float | None:
    """Return when the next delivery is due; None when none is."""
    query = "SELECT min(next_at) FROM webhooks WHERE state = 'pending' AND next_at > ?"
    (at,) = connection.execute(query, (after,)).fetchone()
    return None if at is None else float(at)


def of_request(connection: sqlite3.Connection, request_id: str, seq: int) -> Sequence[Delivery]:
    """Return a request's deliveries."""
    query = f"SELECT {_COLUMNS} FROM webhooks WHERE seq = ? AND request_id = ? ORDER BY event DESC"
    return [Delivery(*row) for row in connection.execute(query, (seq, request_id))]


def pending(connection: sqlite3.Connection) -> int:
    """Return how many deliveries are on their way."""
    query = "SELECT count(*) FROM webhooks WHERE state = 'pending'"
    (count,) = connection.execute(query).fetchone()
    return int(count)
