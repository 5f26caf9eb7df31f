"""The scheduler's database: one file of SQLite, one process that writes, commits that last.

`synchronous=FULL`: with `NORMAL` a power loss takes back what clients were told; a killed process
would lose nothing either way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from gen_worker.runtime.scheduler.errors import (
    DamagedLedgerError,
    LedgerInUseError,
    LedgerWriteError,
    UnknownLedgerError,
)
from gen_worker.runtime.scheduler.schema import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DATABASE_NAME", "LOCK_NAME", "Database", "open_database"]

DATABASE_NAME = "scheduler.db"
LOCK_NAME = "scheduler.lock"

_OLDEST_SQLITE = (3, 35, 0)
"""The first with `UPDATE … FROM`, and with 32,766 parameters in a statement."""
_WAL_PAGES = 4000
"""Of 4 KiB, after which a commit moves them into the database: half as many syncs as with the
1,000 of the default, and 16 MiB more on disk."""
_PATIENCE_S = 0.25
"""With others that have the file open, such as a shell of SQLite: everybody waits meanwhile."""
_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -8192",
    "PRAGMA temp_store = MEMORY",
)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REMEDIES = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "make room on its disk, and see whether that is sound",
    sqlite3.SQLITE_READONLY: "let the scheduler's user write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "let the scheduler's user open the file and its folder",
    sqlite3.SQLITE_BUSY: "end whatever else has it open",
}


class Database:
    """An open database. `writer` and each reader belong to one thread at a time."""

    def __init__(self, path: str, lock: BinaryIO, writer: sqlite3.Connection) -> None:
        """Take what `open_database` has opened.

        Args:
            path: The database file.
            lock: Held until the end.
            writer: The one connection that writes; in autocommit mode.
        """
        self.path = path
        self.writer = writer
        self._lock = lock

    def __repr__(self) -> str:
        return f"<Database {self.path!r}>"

    def reader(self) -> sqlite3.Connection:
        """Return a new connection that cannot write; whoever asks for it closes it."""
        with translated(self.path):
            uri = f"file:{_quoted(self.path)}?mode=ro"
            return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    def checkpoint(self) -> bool:
        """Move what was committed into the database; False where somebody reads what was before."""
        with translated(self.path):
            is_busy, _, _ = self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not is_busy

    def close(self) -> None:
        """Close it; everything is in one file then, unless readers are open."""
        try:
            self.writer.close()
        finally:
            self._lock.close()


def open_database(
    folder: str | os.PathLike[str], *, migrations: Sequence[str] = MIGRATIONS
) -> Database:
    """Open the database of a folder, made where there is none. Blocking.

    A database whose last owner did not close it is checked first.

    Args:
        folder: Private to the user.
        migrations: Steps that bring it to this version.

    Raises:
        LedgerInUseError: Another process has it.
        DamagedLedgerError: It is not what was written.
        UnknownLedgerError: It was written by a newer version, or needs a newer SQLite.
        LedgerWriteError: The folder cannot be written.
    """
    path = os.path.join(os.fspath(folder), DATABASE_NAME)
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise UnknownLedgerError(
            f"Python's SQLite is {sqlite3.sqlite_version}, the scheduler needs 3.35: "
            "use a newer build of Python",
            path=path,
        )
    with contextlib.ExitStack() as opened:
        lock = opened.enter_context(_locked(os.fspath(folder)))
        with translated(path):
            was_closed = not _has_content(f"{path}-wal")
            # SQLite gives its other files the same mode. Not before the lock is held: to close a
            # file takes back all locks that this process has on it, another ledger's too.
            _opened_private(path).close()
            writer = sqlite3.connect(
                path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False
            )
            opened.callback(writer.close)
            _configure(writer, path)
            if not was_closed:
                _check(writer, path)
            _migrate(writer, path, migrations)
        opened.pop_all()
    return Database(path, lock, writer)


def _locked(folder: str) -> BinaryIO:
    path = os.path.join(folder, LOCK_NAME)
    lock = _opened_private(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(b"%d\n" % os.getpid())
    except OSError as error:
        pid = _number(lock.read(32))
        lock.close()
        if not isinstance(error, BlockingIOError):
            raise LedgerWriteError(
                f"{path!r} cannot be locked ({error.strerror}): use a folder on a local disk",
                path=folder,
            ) from error
        who = f"process {pid}" if pid else "another process"
        raise LedgerInUseError(
            f"{who} has the scheduler's folder {folder!r} open: stop it, or use another folder",
            path=folder,
            pid=pid,
        ) from error
    return lock


def _opened_private(path: str) -> BinaryIO:
    """Open a file, made with its folder where there is none, that nobody else may read."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
    except OSError as error:
        raise LedgerWriteError(
            f"{os.path.basename(path)!r} in the scheduler's folder {folder!r} cannot be written "
            f"({error.strerror}): let the scheduler's user write it, or give it another folder",
            path=path,
        ) from error


def _number(text: bytes) -> int:
    return int(text) if text.strip().isdigit() else 0


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(os.path.abspath(path))


def _has_content(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except FileNotFoundError:
        return False


def _configure(connection: sqlite3.Connection, path: str) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LedgerWriteError(
            f"{path!r} cannot have a write-ahead log (its journal mode stays {mode!r}): "
            "use a folder on a local disk",
            path=path,
        )
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _check(connection: sqlite3.Connection, path: str) -> None:
    found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        _refuse_damaged(path, found[0])


def _refuse_damaged(path: str, found: str, cause: Exception | None = None) -> NoReturn:
    raise DamagedLedgerError(
        f"the scheduler's database {path!r} is damaged ({found}): stop the scheduler, move the "
        f"file and those beside it ({DATABASE_NAME}-wal, {DATABASE_NAME}-shm) away, and start it "
        f"again with a copy, or with what `sqlite3 {DATABASE_NAME} .recover` finds in them, or "
        "without: requests that had not ended are to be submitted again then",
        path=path,
    ) from cause


def _migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[str]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise UnknownLedgerError(
            f"the scheduler's database {path!r} has version {version}, this gen-worker knows "
            f"{len(migrations)}: install the newer one that wrote it, or use another folder",
            path=path,
            version=version,
        )
    for number, script in enumerate(migrations[version:], version + 1):
        try:
            # One transaction: `executescript` leaves the statement that failed, and those before.
            connection.executescript(f"BEGIN IMMEDIATE;{script};PRAGMA user_version = {number};")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise what SQLite says as an error of ours.

    Raises:
        DamagedLedgerError: The file is not what was written.
        LedgerWriteError: It cannot be read or written now.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        _refuse_unwritable(path, error)
    except sqlite3.DatabaseError as error:
        if _code_of(error) in _DAMAGED:
            _refuse_damaged(path, str(error), error)
        raise


def _code_of(error: sqlite3.Error) -> int:
    """Return SQLite's primary code; 0 for what Python's module refuses itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _refuse_unwritable(path: str, error: sqlite3.OperationalError) -> NoReturn:
    code = _code_of(error)
    remedy = _REMEDIES.get(code)
    if remedy is None:
        raise error
    raise LedgerWriteError(
        f"the scheduler's database {path!r} cannot be used now ({error}): {remedy}",
        path=path,
        is_full=code == sqlite3.SQLITE_FULL,
    ) from error
