"""What a ledger makes of its disk: owned by one, full, damaged, or written by another version."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import FatalError, ResourceError, classify
from gen_worker.runtime.scheduler import (
    DamagedLedgerError,
    Ending,
    Ledger,
    LedgerInUseError,
    LedgerWriteError,
    NewEvent,
    UnknownLedgerError,
)
from gen_worker.runtime.scheduler.database import open_database
from gen_worker.runtime.scheduler.schema import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOLDER = """
import sys
from gen_worker.runtime.scheduler.database import open_database
database = open_database(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


async def test_a_folder_has_one_owner(open_ledger: Any, folder: Path) -> None:
    async with open_ledger():
        with pytest.raises(LedgerInUseError, match="use another folder") as caught:
            await Ledger.open(folder)
        assert caught.value.pid == os.getpid()


async def test_the_owner_is_named_and_a_dead_one_is_none(folder: Path, open_ledger: Any) -> None:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(LedgerInUseError, match=f"process {holder.pid} has") as caught:
            await Ledger.open(folder)
        assert caught.value.pid == holder.pid
        holder.kill()
        holder.wait()
    async with open_ledger() as ledger:
        assert ledger.statistics().requests == 0


async def test_nobody_else_reads_what_is_in_it(
    open_ledger: Any, submission: Any, folder: Path
) -> None:
    folder.mkdir(mode=0o755)
    async with open_ledger() as ledger:
        await ledger.submit(submission("r-1"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}
    assert "scheduler.db-wal" in modes


@contextmanager
def full_disk(ledger: Ledger, folder: Path) -> Iterator[None]:
    """Let no file of this process grow any more, as `RLIMIT_FSIZE` does."""
    largest = max(path.stat().st_size for path in folder.iterdir())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 64 * 1024, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def full_database(ledger: Ledger, folder: Path) -> Iterator[None]:
    """Let the database have no more pages: SQLite says the same as on a full disk."""
    writer = ledger._database.writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages + 16}")
    try:
        yield
    finally:
        writer.execute("PRAGMA max_page_count = 1000000000")


async def fill(ledger: Ledger, submission: Any, accepted: list[str]) -> None:
    for number in range(1, 1000):
        await ledger.submit(submission(f"r-{number}", payload=bytes(8192)))
        accepted.append(f"r-{number}")


@pytest.mark.parametrize(("full", "is_full"), [(full_disk, False), (full_database, True)])
async def test_a_full_disk_is_told_and_the_ledger_goes_on(
    open_ledger: Any, submission: Any, folder: Path, full: Any, is_full: bool
) -> None:
    async with open_ledger() as ledger:
        first, _ = await ledger.submit(submission("r-0"))
        accepted = ["r-0"]
        with full(ledger, folder):
            with pytest.raises(LedgerWriteError, match="make room on its disk") as caught:
                await fill(ledger, submission, accepted)
            refused = f"r-{len(accepted)}"
            assert isinstance(caught.value, ResourceError)
            assert caught.value.is_full is is_full
            failure = classify(caught.value)
            assert (failure.http_status, failure.retryable) == (503, True)
            failure = classify(caught.value)
            assert (failure.http_status, failure.retry_after_s) == (503, 5.0)
            big = [submission(f"b-{number}", payload=bytes(100_000)) for number in range(20)]
            outcomes = await asyncio.gather(*map(ledger.submit, big), return_exceptions=True)
            assert all(isinstance(outcome, LedgerWriteError) for outcome in outcomes)
            assert await ledger.record("r-0") == first
        record, is_new = await ledger.submit(submission(refused, payload=bytes(8192)))
        assert is_new
        event = NewEvent(b"result", b"{}")
        assert await ledger.end(record.seq, Ending(status="succeeded"), event) is not None
        assert ledger.statistics().requests == len(accepted) + 1
    async with open_ledger() as ledger:
        found = [one.request_id for one in await ledger.unfinished()]
        assert found == accepted
        assert ledger.statistics()[:2] == (len(accepted) + 1, 1)


async def made(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        asked = [submission(f"r-{number}", payload=bytes(2000)) for number in range(200)]
        await asyncio.gather(*map(ledger.submit, asked))


def no_database(path: Path) -> None:
    path.write_bytes(b"what is this" * 1000)


def torn(path: Path) -> None:
    """Cut it in the middle, and leave a log behind as a crash does."""
    os.truncate(path, path.stat().st_size // 2)
    path.with_name(path.name + "-wal").write_bytes(bytes(32))


def overwritten(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 200_000)
    path.with_name(path.name + "-wal").write_bytes(bytes(32))


@pytest.mark.parametrize("damage", [no_database, torn, overwritten])
async def test_a_damaged_database_is_refused_and_left_as_it_is(
    open_ledger: Any, submission: Any, folder: Path, damage: Callable[[Path], None]
) -> None:
    await made(open_ledger, submission)
    path = folder / "scheduler.db"
    damage(path)
    content = path.read_bytes()
    for _ in range(2):
        with pytest.raises(DamagedLedgerError, match="recover") as caught:
            await Ledger.open(folder)
        assert isinstance(caught.value, FatalError)
        assert caught.value.path == str(path)
    assert path.read_bytes() == content
    path.rename(folder / "damaged.db")
    async with open_ledger() as ledger:
        assert ledger.statistics().requests == 0


async def test_damage_that_is_found_later_is_told_to_who_asks(
    open_ledger: Any, submission: Any, folder: Path
) -> None:
    await made(open_ledger, submission)
    path = folder / "scheduler.db"
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 8192))
    with pytest.raises(DamagedLedgerError, match="is damaged"):
        async with open_ledger() as ledger:
            await ledger.page()


async def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, folder: Path) -> None:
    tmp_path.joinpath("file").write_bytes(b"")
    with pytest.raises(LedgerWriteError, match=r"'scheduler\.lock' .* another folder"):
        await Ledger.open(tmp_path / "file" / "inner")
    folder.joinpath("scheduler.db").mkdir(parents=True)
    with pytest.raises(LedgerWriteError, match=r"'scheduler\.db' .* another folder"):
        await Ledger.open(folder)


ADDED = "ALTER TABLE requests ADD COLUMN note TEXT NOT NULL DEFAULT 'none'"


async def test_an_older_database_is_brought_up_to_date(
    open_ledger: Any, submission: Any, folder: Path
) -> None:
    await made(open_ledger, submission)
    with closing(open_database(folder, migrations=(*MIGRATIONS, ADDED))) as database:
        rows = database.writer.execute("SELECT DISTINCT note FROM requests").fetchall()
        assert rows == [("none",)]
        (version,) = database.writer.execute("PRAGMA user_version").fetchone()
        assert version == len(MIGRATIONS) + 1
    with closing(open_database(folder, migrations=(*MIGRATIONS, ADDED))) as database:
        assert database.writer.execute("SELECT count(*) FROM requests").fetchone() == (200,)


async def test_a_newer_database_is_refused(folder: Path) -> None:
    open_database(folder, migrations=(*MIGRATIONS, ADDED)).close()
    with pytest.raises(UnknownLedgerError, match="install the newer one") as caught:
        await Ledger.open(folder)
    assert caught.value.version == len(MIGRATIONS) + 1


async def test_a_step_that_fails_leaves_nothing(
    open_ledger: Any, submission: Any, folder: Path
) -> None:
    await made(open_ledger, submission)
    with pytest.raises(sqlite3.OperationalError):
        open_database(folder, migrations=(*MIGRATIONS, f"{ADDED}; DROP TABLE nothing"))
    async with open_ledger() as ledger:
        assert ledger.statistics().requests == 200
    with closing(open_database(folder, migrations=(*MIGRATIONS, ADDED))) as database:
        assert database.writer.execute("SELECT count(note) FROM requests").fetchone() == (200,)


async def test_an_old_sqlite_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(UnknownLedgerError, match="newer build of Python"):
        await Ledger.open(folder)


IDLE = """
import sys
import gen_worker.entrypoint
import gen_worker.runtime.entry.inference
import gen_worker.runtime.http.app
import gen_worker.runtime.worker.worker
import gen_worker.runtime.scheduler
print([name for name in sys.modules if "sqlite" in name or ".scheduler." in name])
"""


def test_who_has_no_scheduler_does_not_pay_for_one() -> None:
    done = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
