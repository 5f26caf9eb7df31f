"""The hub's records: SQLite in WAL mode, every commit on disk before it is answered.

All writing goes through `writing()`, one transaction at a time across threads and processes: that
is what makes a finalize all or nothing, and keeps the collection of garbage away from blobs that
are just being referred to.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from gen_worker.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Database", "Row"]

Row = sqlite3.Row

_VERSION = 1
_BUSY_MS = 30_000
_SCHEMA = """
CREATE TABLE repos (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL,
    metadata TEXT, created_at REAL NOT NULL, UNIQUE (owner, name));
CREATE TABLE checkpoints (
    id INTEGER PRIMARY KEY, repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE,
    checkpoint_id TEXT NOT NULL, flavor TEXT NOT NULL, facts TEXT NOT NULL,
    created_at REAL NOT NULL);
CREATE INDEX checkpoints_by_id ON checkpoints (repo, checkpoint_id);
CREATE TABLE entries (
    checkpoint INTEGER NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    path TEXT NOT NULL, blake3 TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    PRIMARY KEY (checkpoint, path)) WITHOUT ROWID;
CREATE INDEX entries_by_blob ON entries (blake3);
CREATE TABLE releases (
    id INTEGER PRIMARY KEY, repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE,
    seq INTEGER NOT NULL, created_at REAL NOT NULL, UNIQUE (repo, seq));
CREATE TABLE members (
    release INTEGER NOT NULL REFERENCES releases ON DELETE CASCADE, label TEXT NOT NULL,
    checkpoint INTEGER NOT NULL REFERENCES checkpoints,
    PRIMARY KEY (release, label)) WITHOUT ROWID;
CREATE INDEX members_by_checkpoint ON members (checkpoint);
CREATE TABLE tags (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, tag TEXT NOT NULL,
    release INTEGER NOT NULL REFERENCES releases, default_flavor TEXT NOT NULL,
    moved_at REAL NOT NULL, PRIMARY KEY (repo, tag)) WITHOUT ROWID;
CREATE TABLE revisions (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
    facts TEXT NOT NULL, request BLOB, answer TEXT, error TEXT,
    created_at REAL NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE uploads (
    id TEXT PRIMARY KEY, domain TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL,
    revision TEXT NOT NULL, ref TEXT NOT NULL, blake3 TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    mime_type TEXT NOT NULL, staging TEXT NOT NULL, state TEXT NOT NULL, answer TEXT,
    created_at REAL NOT NULL);
CREATE INDEX uploads_by_revision ON uploads (revision);
CREATE INDEX uploads_by_blob ON uploads (blake3);
CREATE INDEX uploads_by_staging ON uploads (staging);
CREATE TABLE media (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, ref TEXT NOT NULL, blake3 TEXT NOT NULL,
    sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL, mime_type TEXT NOT NULL,
    created_at REAL NOT NULL, UNIQUE (owner, ref));
CREATE INDEX media_by_blob ON media (blake3);
CREATE TABLE datasets (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, created_at REAL NOT NULL,
    UNIQUE (owner, name));
CREATE TABLE dataset_revisions (
    dataset TEXT NOT NULL REFERENCES datasets ON DELETE CASCADE, seq INTEGER NOT NULL,
    digest TEXT NOT NULL, document TEXT NOT NULL, created_at REAL NOT NULL,
    PRIMARY KEY (dataset, seq)) WITHOUT ROWID;
CREATE TABLE dataset_blobs (
    dataset TEXT NOT NULL REFERENCES datasets ON DELETE CASCADE, blake3 TEXT NOT NULL,
    PRIMARY KEY (dataset, blake3)) WITHOUT ROWID;
CREATE INDEX dataset_blobs_by_blob ON dataset_blobs (blake3);
CREATE TABLE tokens (
    id TEXT PRIMARY KEY, subject TEXT NOT NULL, created_at REAL NOT NULL,
    expires_at REAL NOT NULL, revoked_at REAL);
CREATE TABLE ingests (
    key TEXT PRIMARY KEY, job_id TEXT NOT NULL, model_ref TEXT NOT NULL, state TEXT NOT NULL,
    checkpoint INTEGER, error TEXT, created_at REAL NOT NULL);
CREATE TABLE chunks (blake3 TEXT PRIMARY KEY, hashes BLOB NOT NULL);
"""


class Database:
    """One connection, used by one thread at a time."""

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        for pragma in (
            f"busy_timeout = {_BUSY_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            self._connection.execute(f"PRAGMA {pragma}").close()
        with self.writing():
            self._migrate(path)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def rows(self, statement: str, *values: Any) -> list[Row]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, *values: Any) -> Row | None:
        with self._lock:
            found: Row | None = self._connection.execute(statement, values).fetchone()
            return found

    def run(self, statement: str, *values: Any) -> int:
        """Execute one statement; return the id of the row it inserted, if any."""
        with self._lock:
            return self._connection.execute(statement, values).lastrowid or 0

    def run_all(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._lock:
            self._connection.executemany(statement, rows)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Make everything in the block happen at once, or not at all. Blocks nest."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Have all statements of the block see one and the same state."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def _migrate(self, path: str) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == _VERSION:
            return
        if version:
            raise FatalError(
                f"{path!r} was written by another version of gen-worker: it has the format "
                f"{version}, this one knows {_VERSION}"
            )
        for statement in _SCHEMA.split(";"):
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version = {_VERSION}")
