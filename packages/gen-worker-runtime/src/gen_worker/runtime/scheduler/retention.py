"""What is kept of requests that have ended, and how the rest is forgotten: the oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.scheduler.schema import EVENT_BITS

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Keeping", "Totals", "forget_some", "totals_of"]

_MAX_REQUESTS = 256
_MAX_EVENTS = 4096
"""Of one step: as much as a batch writes."""

_DROP_EVENTS = f"""
DELETE FROM events WHERE key IN (
    SELECT events.key FROM json_each(?) AS old CROSS JOIN events
    WHERE events.key >= old.value << {EVENT_BITS}
      AND events.key < (old.value + 1) << {EVENT_BITS}
    LIMIT {_MAX_EVENTS}
)
"""
_OLDEST = """
SELECT seq, ended_at, size_bytes FROM requests
WHERE ended_at IS NOT NULL ORDER BY ended_at, seq LIMIT ?
"""


class Keeping(msgspec.Struct, frozen=True, kw_only=True):
    """How long requests that have ended can be asked for."""

    keep_s: float = 7 * 24 * 3600.0
    max_requests: int = 100_000
    max_bytes: int = 4 * 1024**3
    """Of their payloads and events."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What there is in a ledger."""

    requests: int
    ended: int
    ended_bytes: int

    def plus(self, *, requests: int = 0, ended: int = 0, ended_bytes: int = 0) -> Totals:
        return Totals(
            requests=self.requests + requests,
            ended=self.ended + ended,
            ended_bytes=self.ended_bytes + ended_bytes,
        )

    def exceed(self, keeping: Keeping) -> bool:
        """Return whether some of what has ended is to be forgotten, however new it is."""
        return self.ended > keeping.max_requests or self.ended_bytes > keeping.max_bytes


def totals_of(connection: sqlite3.Connection) -> Totals:
    """Count; looks at every request."""
    requests, ended, size = connection.execute(
        "SELECT count(*), count(ended_at), ifnull(sum(iif(ended_at IS NULL, 0, size_bytes)), 0)"
        " FROM requests"
    ).fetchone()
    return Totals(requests=requests, ended=ended, ended_bytes=size)


def forget_some(
    connection: sqlite3.Connection, totals: Totals, keeping: Keeping, now: float
) -> Totals | None:
    """Forget some of what is not to be kept, inside of a transaction.

    Returns:
        What there is then; None when there was nothing to forget.
    """
    left = totals
    seqs: list[int] = []
    for seq, ended_at, size_bytes in connection.execute(_OLDEST, (_MAX_REQUESTS,)).fetchall():
        if not left.exceed(keeping) and now - ended_at < keeping.keep_s:
            break
        seqs.append(seq)
        left = left.plus(requests=-1, ended=-1, ended_bytes=-size_bytes)
    if not seqs:
        return None
    named = msgspec.json.encode(seqs).decode()
    if connection.execute(_DROP_EVENTS, (named,)).rowcount == _MAX_EVENTS:
        return totals  # there may be more of them; the requests go with the last
    for table in ("calls", "requests"):
        connection.execute(
            f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))", (named,)
        )
    return left
