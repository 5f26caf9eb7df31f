"""What the writing thread does while nobody asks for anything, and the clock it goes by."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ValidationError
from gen_worker.runtime.scheduler import Ending, Keeping, NewEvent, StoredEvent, Submitted
from gen_worker.runtime.scheduler.changes import Append, End, Submit, Transact
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.database import open_database
from gen_worker.runtime.scheduler.journal import Journal
from gen_worker.runtime.scheduler.schema import MAX_EVENTS

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DONE = Ending(status="succeeded")
RESULT = NewEvent(b"result", b"{}")


def test_what_was_committed_moves_into_the_database_when_there_is_time(
    folder: Path, submission: Any, clock: Any
) -> None:
    with closing(open_database(folder)) as database:
        journal = Journal(database, Keeping(), clock)
        log = folder / "scheduler.db-wal"
        journal.commit([Submit(submission("r-1"))])
        assert log.stat().st_size > 0
        assert journal.relax() > 1
        assert log.stat().st_size == 0


def test_a_reader_does_not_stop_what_can_wait(folder: Path, submission: Any, clock: Any) -> None:
    with closing(open_database(folder)) as database, closing(database.reader()) as reader:
        journal = Journal(database, Keeping(), clock)
        journal.commit([Submit(submission("r-1"))])
        rows = reader.execute("SELECT request_id FROM requests")
        journal.commit([Submit(submission("r-2"))])
        assert journal.relax() > 1
        assert rows.fetchall() == [("r-1",)]
        journal.relax()
        assert (folder / "scheduler.db-wal").stat().st_size == 0


def test_what_is_old_is_forgotten_when_there_is_time(
    folder: Path, submission: Any, clock: Any
) -> None:
    with closing(open_database(folder)) as database:
        journal = Journal(database, Keeping(keep_s=10), clock)
        for seq in range(1, 301):
            journal.commit([Submit(submission(f"r-{seq}")), End(seq, DONE, RESULT)])
        clock.now += 10
        assert [journal.relax() for _ in range(2)] == [0.0, 0.0]  # 256 of them, then the others
        assert journal.relax() > 1
        assert journal.totals.requests == 0


def test_a_request_keeps_so_many_events_and_still_ends(
    folder: Path, submission: Any, clock: Any
) -> None:
    with closing(open_database(folder)) as database:
        journal = Journal(database, Keeping(), clock)
        journal.commit([Submit(submission("r-1")), Submit(submission("r-2"))])
        query = "UPDATE requests SET last_event_id = ? WHERE seq = 1"
        database.writer.execute(query, (MAX_EVENTS - 1,))
        item = NewEvent(b"event", b"{}")
        outcomes = journal.commit(
            [Append(1, (item, item)), Append(1, (item,)), Append(2, (item,)), End(1, DONE, RESULT)]
        )
        assert isinstance(outcomes[0], ValidationError)
        assert outcomes[1] == (StoredEvent(MAX_EVENTS, b"event", b"{}"),)
        assert outcomes[2] == (StoredEvent(1, b"event", b"{}"),)
        assert outcomes[3] == StoredEvent(MAX_EVENTS + 1, b"result", b"{}")


def test_other_changes_share_the_commit_and_see_its_requests(
    folder: Path, submission: Any, clock: Any
) -> None:
    def note(connection: Any, now: float) -> tuple[int, float]:
        connection.execute("INSERT INTO notes VALUES ('kept')")
        return connection.execute("SELECT count(*) FROM requests").fetchone()[0], now

    def refuse(connection: Any, _: float) -> None:
        connection.execute("INSERT INTO notes VALUES ('taken back')")
        raise ValidationError("no")

    def break_off(connection: Any, _: float) -> None:
        connection.execute("INSERT INTO notes VALUES ('taken back')")
        connection.execute("INSERT INTO nothing VALUES (1)")

    with closing(open_database(folder)) as database:
        database.writer.execute("CREATE TABLE notes (text TEXT)")
        journal = Journal(database, Keeping(), clock)
        outcomes = journal.commit(
            [Transact(note), Submit(submission("r-1")), Transact(refuse), Transact(note)]
        )
        assert (outcomes[0], outcomes[3]) == ((1, clock.now), (1, clock.now))
        assert isinstance(outcomes[2], ValidationError)
        broken, kept = journal.commit([Transact(break_off), Submit(submission("r-2"))])
        assert isinstance(broken, sqlite3.OperationalError)
        assert isinstance(kept, Submitted)
        rows = database.writer.execute("SELECT text FROM notes").fetchall()
        assert rows == [("kept",), ("kept",)]


def test_a_disk_that_is_full_is_logged_once(
    folder: Path, submission: Any, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(open_database(folder)) as database:
        journal = Journal(database, Keeping(), clock)
        database.writer.execute("PRAGMA max_page_count = 1")
        for number in range(3):
            journal.commit([Submit(submission(f"r-{number}", payload=bytes(100_000)))])
        assert journal.failed_batches == 3
        database.writer.execute("PRAGMA max_page_count = 1000000")
        journal.commit([Submit(submission("r-1"))])
        levels = [record.levelname for record in caplog.records]
        assert levels == ["ERROR", "WARNING"]
        assert "make room on its disk" in caplog.text


def test_the_clock_goes_on_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.time()
    clock = steady_clock()
    first = clock()
    assert before - 1 < first < time.time() + 1
    monkeypatch.setattr(time, "time", lambda: 0.0)
    second = clock()
    assert first <= second < first + 60
