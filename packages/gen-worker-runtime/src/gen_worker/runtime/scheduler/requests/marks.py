"""What a restart must not forget of a request that runs: lost workers, and that it was canceled.

Rare, so each is a row of its own that goes with the request's end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    import sqlite3
    from asyncio import Future
    from collections.abc import Mapping

    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.scheduler.ledger import Ledger

__all__ = ["Mark", "forget", "marks_of", "note_cancel", "note_loss", "tidy"]

_UPSERT = "INSERT INTO marks (seq, lost, cancel) VALUES (?, ?, ?) ON CONFLICT (seq) DO UPDATE SET "


class Mark(NamedTuple):
    """What was noted of one request."""

    lost: int = 0
    cancel: CancelReason | None = None


def note_cancel(ledger: Ledger, seq: int, reason: CancelReason) -> Future[None]:
    def change(connection: sqlite3.Connection, _now: float) -> None:
        connection.execute(f"{_UPSERT} cancel = excluded.cancel", (seq, 0, reason))

    return ledger.transact(change)


def note_loss(ledger: Ledger, seq: int, lost: int) -> Future[None]:
    def change(connection: sqlite3.Connection, _now: float) -> None:
        connection.execute(f"{_UPSERT} lost = excluded.lost", (seq, lost, ""))

    return ledger.transact(change)


def forget(ledger: Ledger, seq: int) -> Future[None]:
    def change(connection: sqlite3.Connection, _now: float) -> None:
        connection.execute("DELETE FROM marks WHERE seq = ?", (seq,))

    return ledger.transact(change)


def tidy(ledger: Ledger) -> Future[None]:
    """Forget those of requests that have ended."""

    def change(connection: sqlite3.Connection, _now: float) -> None:
        connection.execute(
            "DELETE FROM marks WHERE seq NOT IN (SELECT seq FROM requests WHERE ended_at IS NULL)"
        )

    return ledger.transact(change)


def marks_of(reader: sqlite3.Connection) -> Mapping[int, Mark]:
    rows = reader.execute("SELECT seq, lost, cancel FROM marks").fetchall()
    return {seq: Mark(lost, cast("CancelReason", cancel) or None) for seq, lost, cancel in rows}
