"""The writing side of the ledger: batches of operations become transactions. In one thread."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import DuplicateRequestError, ValidationError
from gen_worker.runtime.scheduler.changes import Draft, Flush, Submit, Transact
from gen_worker.runtime.scheduler.database import translated
from gen_worker.runtime.scheduler.errors import DamagedLedgerError, LedgerWriteError
from gen_worker.runtime.scheduler.retention import forget_some, totals_of
from gen_worker.runtime.scheduler.rows import COLUMNS, insert, record_of, row_of, update_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gen_worker.runtime.scheduler.changes import Operation
    from gen_worker.runtime.scheduler.database import Database
    from gen_worker.runtime.scheduler.retention import Keeping
    from gen_worker.runtime.scheduler.values import RequestRecord

__all__ = ["Journal"]

_log = logging.getLogger("gen_worker.scheduler")

_FORGET_EVERY_S = 10.0
_REFUSED_S = 10.0
_NAMED = f"""
SELECT {COLUMNS} FROM requests WHERE seq IN (SELECT value FROM json_each(?))
UNION ALL
SELECT {COLUMNS} FROM requests WHERE request_id IN (SELECT value FROM json_each(?))
UNION ALL
SELECT {COLUMNS} FROM requests WHERE key <> '' AND (owner, key) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)
)
"""
"""Every request that a batch names, in one statement."""


class Journal:
    """Writes to a database, and forgets what is old."""

    def __init__(self, database: Database, keeping: Keeping, clock: Callable[[], float]) -> None:
        """Begin with what is there.

        Args:
            database: Open; nobody else uses its writer.
            keeping: What is kept of requests that have ended.
            clock: Unix time.
        """
        self._database = database
        self._connection = database.writer
        self._keeping = keeping
        self._clock = clock
        with translated(database.path):
            self.totals = totals_of(self._connection)
            (last,) = self._connection.execute("SELECT max(seq) FROM requests").fetchone()
        self._next_seq = (last or 0) + 1
        self._forget_at = 0.0
        self._is_moved = True
        """Whether all that was committed is in the database itself."""
        self._refused_at = 0.0
        """When the disk last took nothing; 0 since it took something."""
        self.batches = 0
        self.failed_batches = 0

    @property
    def is_refused(self) -> bool:
        """Whether the disk took nothing just now. After a while it may be tried again."""
        return self._refused_at + _REFUSED_S > self._clock()

    def commit(self, operations: Sequence[Operation]) -> Sequence[object]:
        """Write a batch.

        Args:
            operations: In order.

        Returns:
            What each came to: an exception where it failed. Nothing is written of a batch for which
            the disk has no room.
        """
        try:
            with translated(self._database.path):
                return self._commit_believing(operations)
        except Exception as error:
            self._roll_back()
            is_disk = isinstance(error, (LedgerWriteError, DamagedLedgerError))
            if is_disk or len(operations) == 1:
                self.failed_batches += 1
                if is_disk and not self._refused_at:
                    _log.error("nothing is accepted, and nothing ends: %s", error)
                if is_disk:
                    self._refused_at = self._clock()
                return [error] * len(operations)
        # One of them cannot be written, whatever is tried: the others are not to suffer for it.
        return [outcome for one in operations for outcome in self.commit((one,))]

    def relax(self) -> float:
        """Do what can wait; return the seconds until there may be more."""
        try:
            with translated(self._database.path):
                if self._forget():
                    return 0.0
                self._is_moved = self._is_moved or self._database.checkpoint()
        except Exception as error:
            self._roll_back()
            _log.warning("the ledger is not tidied up: %s", error)
        return _FORGET_EVERY_S

    def _commit_believing(self, operations: Sequence[Operation]) -> list[object]:
        """Write a batch, and only look for earlier requests with the same ids if there are some."""
        try:
            return self._commit(operations, looks_for_ids=False)
        except sqlite3.IntegrityError:
            self._roll_back()
            return self._commit(operations, looks_for_ids=True)

    def _commit(self, operations: Sequence[Operation], *, looks_for_ids: bool) -> list[object]:
        now = self._clock()
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        totals, forget_at = self.totals, self._forget_at
        if totals.exceed(self._keeping) or now >= forget_at:
            # First, so that nobody is told of a request that is forgotten with the same commit.
            left = forget_some(connection, totals, self._keeping, now)
            totals, forget_at = left or totals, now + _FORGET_EVERY_S if left is None else now
        records = self._named_by(operations, looks_for_ids=looks_for_ids)
        draft = Draft(records, next_seq=self._next_seq, now=now)
        outcomes = _applied(draft, operations)
        self._write(draft)
        for index, operation in enumerate(operations):
            if isinstance(operation, Transact):
                outcomes[index] = _transacted(connection, operation, now)
        connection.execute("COMMIT")
        self.totals = totals.plus(
            requests=len(draft.new),
            ended=len(draft.ended),
            ended_bytes=sum(draft[seq].size_bytes for seq in draft.ended),
        )
        self._forget_at = forget_at
        self._next_seq = draft.next_seq
        self._is_moved = False
        self.batches += 1
        if self._refused_at:
            self._refused_at = 0.0
            _log.warning("the ledger can be written again")
        return outcomes

    def _named_by(
        self, operations: Sequence[Operation], *, looks_for_ids: bool
    ) -> Iterable[RequestRecord]:
        seqs: set[int] = set()
        ids: list[str] = []
        keys: list[tuple[str, str]] = []
        for operation in operations:
            if isinstance(operation, Submit):
                submission = operation.submission
                if looks_for_ids:
                    ids.append(submission.request_id)
                if submission.key:
                    keys.append((submission.owner, submission.key))
            elif not isinstance(operation, (Flush, Transact)):
                seqs.add(operation.seq)
        if not (seqs or ids or keys):
            return ()
        names = [msgspec.json.encode(found).decode() for found in (sorted(seqs), ids, keys)]
        return map(record_of, self._connection.execute(_NAMED, names))

    def _write(self, draft: Draft) -> None:
        connection = self._connection
        # In this order: a request that is tried again gives its key to its successor.
        update_requests(connection, [draft[seq] for seq in draft.changed])
        insert(connection, "requests", [row_of(draft[seq]) for seq in draft.new])
        insert(
            connection,
            "calls",
            [(seq, asked.payload, asked.options) for seq, asked in draft.new.items()],
        )
        insert(connection, "events", draft.events)

    def _forget(self) -> bool:
        """Forget some of what is old; return whether there may be more."""
        self._connection.execute("BEGIN IMMEDIATE")
        left = forget_some(self._connection, self.totals, self._keeping, self._clock())
        self._connection.execute("COMMIT")
        if left is None:
            return False
        self.totals = left
        self._is_moved = False
        return True

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # SQLite has done it itself
                self._connection.execute("ROLLBACK")


def _applied(draft: Draft, operations: Sequence[Operation]) -> list[object]:
    outcomes: list[object] = []
    for operation in operations:
        try:
            outcomes.append(draft.apply(operation))
        except (DuplicateRequestError, ValidationError) as error:
            outcomes.append(error)
    return outcomes


def _transacted(connection: sqlite3.Connection, operation: Transact, now: float) -> object:
    """Return what it returns, or why it refused; what SQLite cannot write fails the batch."""
    connection.execute("SAVEPOINT change")
    try:
        outcome = operation.change(connection, now)
    except sqlite3.Error:
        raise
    except Exception as error:  # whoever asked is told
        connection.execute("ROLLBACK TO change")
        outcome = error
    connection.execute("RELEASE change")
    return outcome
