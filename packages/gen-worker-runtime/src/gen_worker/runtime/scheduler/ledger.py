"""The ledger: every request that was accepted, what it produced and how it ended, on disk.

What is awaited is committed: a client is told of nothing that a crash could take back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.runtime.scheduler.changes import (
    Append,
    Assign,
    End,
    Flush,
    Operation,
    Requeue,
    Submit,
    Transact,
)
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.database import open_database, translated
from gen_worker.runtime.scheduler.journal import Journal
from gen_worker.runtime.scheduler.lane import Lane
from gen_worker.runtime.scheduler.queries import (
    call_of,
    events_of,
    page_of,
    record_by_id,
    unfinished_after,
)
from gen_worker.runtime.scheduler.retention import Keeping
from gen_worker.runtime.scheduler.values import RequestFilter

if TYPE_CHECKING:
    import os
    import sqlite3
    from asyncio import Future
    from collections.abc import Callable, Sequence

    from gen_worker.runtime.scheduler.database import Database
    from gen_worker.runtime.scheduler.values import (
        Ending,
        NewEvent,
        RequestPage,
        RequestRecord,
        Requeued,
        StoredCall,
        StoredEvent,
        Submission,
        Submitted,
    )

    Query = Callable[[sqlite3.Connection], object]

__all__ = ["Ledger", "LedgerOptions", "LedgerStatistics"]

T = TypeVar("T")
_EVERYTHING = RequestFilter()


class LedgerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept and written at once."""

    keeping: Keeping = Keeping()
    max_batch: int = 256
    """Operations of one transaction."""
    behind_s: float = 0.05
    """After which what nobody waits for is written."""


class LedgerStatistics(NamedTuple):
    """What there is in a ledger, and what was done since it was opened."""

    requests: int
    ended: int
    ended_bytes: int
    pending: int
    """Operations that wait to be written."""
    batches: int
    failed_batches: int
    is_refused: bool
    """Whether the disk has just refused to take one."""


class Ledger:
    """The requests of one scheduler. On one loop; its disk is read and written in two threads.

    Operations are written in the order of the calls, which each take their place at once: what is
    returned only has to be awaited by who wants to know. Who stops waiting takes nothing back.
    Each can fail with a `LedgerWriteError`; nothing was written then, and it can be asked again.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        reader: sqlite3.Connection,
        options: LedgerOptions,
    ) -> None:
        """Use `Ledger.open`.

        Args:
            database: Open; the ledger closes it.
            journal: Writes to it.
            reader: Reads from it; the ledger closes it.
            options: How much is written at once.
        """
        self._database = database
        self._journal = journal
        self._reader = reader
        self._options = options
        self._writing: Lane[Operation] = Lane(
            "gen-worker-ledger",
            self._journal.commit,
            max_batch=options.max_batch,
            relax=self._journal.relax,
        )
        self._reading: Lane[Query] = Lane("gen-worker-ledger-reader", self._answer, max_batch=64)

    @classmethod
    async def open(
        cls,
        folder: str | os.PathLike[str],
        options: LedgerOptions | None = None,
        *,
        clock: Callable[[], float] | None = None,
    ) -> Ledger:
        """Open the ledger of a folder; one that was not closed is checked first.

        Args:
            folder: Of the scheduler; made where there is none.
            options: How much is kept.
            clock: Unix time; by default one that does not jump.

        Raises:
            LedgerInUseError: Another process has it.
            DamagedLedgerError: It is not what was written.
            UnknownLedgerError: It was written by a newer version, or needs a newer SQLite.
            LedgerWriteError: The folder cannot be written.
        """
        options = options or LedgerOptions()
        parts = await asyncio.to_thread(_opened, folder, options, clock or steady_clock())
        return cls(*parts, options)

    async def close(self) -> None:
        """Write what was given, and let the folder go. Operations are refused from now on."""
        await self._writing.close()
        await self._reading.close()
        self._reader.close()
        await asyncio.to_thread(self._database.close)

    def __repr__(self) -> str:
        return f"<Ledger {self._database.path!r} {self.statistics()}>"

    # -- operations --------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> Future[Submitted]:
        """Keep a new request, or find the one that was submitted with the same key.

        A key whose request failed in a way that may be gone is taken over by the new request.

        Raises:
            ValidationError: A name has a character that no database keeps.
            KeyConflictError: The key belongs to a request with another digest.
            DuplicateRequestError: There is a request with this id.
            LedgerWriteError: It is not kept.
        """
        for name in (submission.request_id, submission.owner, submission.key):
            if "\0" in name:
                raise ValidationError(f"{name!r} has a null character: leave it out")
        return self._writing.put(Submit(submission))

    def assign(self, seq: int, worker_id: str, attempt: int, *, at: float) -> None:
        """Note that a worker was given an attempt, with the next batch or a little later.

        After a crash the worker says itself what it runs. Of another attempt than the one that
        waits, and of what has ended, nothing is noted.

        Args:
            seq: The request.
            worker_id: Who; empty when nobody has it any more.
            attempt: Which.
            at: Unix time when.
        """
        self._writing.put_behind(Assign(seq, worker_id, attempt, at), self._options.behind_s)

    def append(self, seq: int, events: Sequence[NewEvent]) -> Future[tuple[StoredEvent, ...]]:
        """Keep what a request produced, and return what was new of it, with its numbers.

        Left out is what an attempt says that is not the present one, and streamed output whose
        sequence is not greater than the last. Of a request that has ended nothing is kept.

        Raises:
            ValidationError: It has produced more than 16 million; none of these is kept.
            LedgerWriteError: They are not kept.
        """
        return self._writing.put(Append(seq, events))

    def end(
        self, seq: int, ending: Ending, event: NewEvent, assigned: Assign | None = None
    ) -> Future[StoredEvent | None]:
        """End a request, with its last event.

        Args:
            seq: The request.
            ending: How.
            event: The last.
            assigned: Who has it, in case `assign` could not write that; nobody waits for it there.

        Returns:
            That event with its number. None: it had ended, and this changes nothing; or the output
            was streamed by an attempt that is no longer the present one.
        """
        return self._writing.put(End(seq, ending, event, assigned))

    def requeue(self, seq: int, attempt: int, *, due_at: float) -> Future[Requeued | None]:
        """Have a request wait again, because an attempt was lost or failed.

        Args:
            seq: The request.
            attempt: The one that is over.
            due_at: Unix time before which the next one is not to begin.

        Returns:
            The next attempt. None: the request has ended, or that attempt was over before.
        """
        return self._writing.put(Requeue(seq, attempt, due_at))

    def transact(self, change: Callable[[sqlite3.Connection, float], T]) -> Future[T]:
        """Change other tables of the database, with the commit of everything around it.

        Args:
            change: Called in the writing thread, perhaps twice, with the connection and the Unix
                time, when the requests of its batch are written. What it raises is raised here,
                and nothing that it did is kept.

        Raises:
            LedgerWriteError: Nothing is changed.
        """
        return self._writing.put(Transact(change))

    async def flush(self) -> None:
        """Wait until all that was given is written, or has failed."""
        await self._writing.put(Flush())

    # -- questions: what was committed is seen -----------------------------------------------------

    async def record(self, request_id: str) -> RequestRecord | None:
        """Return a request; None when there is none, or none any more."""
        return await self.ask(lambda reader: record_by_id(reader, request_id))

    async def call(self, seq: int) -> StoredCall | None:
        """Return what a worker is given of a request; None when there is no such request."""
        return await self.ask(lambda reader: call_of(reader, seq))

    async def events(
        self, seq: int, *, after: int = 0, limit: int = 1000, max_bytes: int = 256 * 1024
    ) -> tuple[StoredEvent, ...]:
        """Return events with greater numbers, in order; at least one, if there are any."""
        return await self.ask(lambda reader: events_of(reader, seq, after, limit, max_bytes))

    async def unfinished(self, *, after: int = 0, limit: int = 1000) -> tuple[RequestRecord, ...]:
        """Return requests that have not ended, from the first whose seq is greater than `after`."""
        return await self.ask(lambda reader: unfinished_after(reader, after, limit))

    async def page(
        self, wanted: RequestFilter = _EVERYTHING, *, before: int | None = None, limit: int = 100
    ) -> RequestPage:
        """List requests, the latest first.

        Args:
            wanted: Which.
            before: `RequestPage.before` of the page before; None begins with the latest.
            limit: At most so many.
        """
        return await self.ask(lambda reader: page_of(reader, wanted, before, limit))

    def statistics(self) -> LedgerStatistics:
        """Return what there is at this moment."""
        journal, totals = self._journal, self._journal.totals
        return LedgerStatistics(
            requests=totals.requests,
            ended=totals.ended,
            ended_bytes=totals.ended_bytes,
            pending=len(self._writing),
            batches=journal.batches,
            failed_batches=journal.failed_batches,
            is_refused=journal.is_refused,
        )

    def ask(self, query: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Return what a query of other tables comes to, with a connection that only reads."""
        return self._reading.put(query)

    def _answer(self, queries: Sequence[Query]) -> Sequence[object]:
        return [self._answer_one(query) for query in queries]

    def _answer_one(self, query: Query) -> object:
        try:
            with translated(self._database.path):
                return query(self._reader)
        except Exception as error:  # whoever asked is told
            return error


def _opened(
    folder: str | os.PathLike[str], options: LedgerOptions, clock: Callable[[], float]
) -> tuple[Database, Journal, sqlite3.Connection]:
    database = open_database(folder)
    try:
        return database, Journal(database, options.keeping, clock), database.reader()
    except BaseException:
        database.close()
        raise
