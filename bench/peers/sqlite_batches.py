"""SQLite alone: the rows of submissions, so many in a transaction, from one thread."""

from __future__ import annotations

import os
import sqlite3
from time import perf_counter

TABLES = """
CREATE TABLE requests (
    seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE, owner TEXT, endpoint TEXT,
    function TEXT, tag TEXT, release_id TEXT, key TEXT, digest BLOB, priority INTEGER,
    timeout_ms INTEGER, deadline_at REAL, created_at REAL, status TEXT, attempt INTEGER,
    worker_id TEXT, started_at REAL, due_at REAL, last_event_id INTEGER, last_sequence INTEGER,
    size_bytes INTEGER, ended_at REAL, ending BLOB
);
CREATE INDEX requests_by_end ON requests (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE calls (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL, options BLOB NOT NULL);
"""
REQUEST = f"INSERT INTO requests VALUES ({', '.join('?' * 23)})"
CALL = "INSERT INTO calls VALUES (?, ?, ?)"


class SqliteBatches:
    """A database like the scheduler's, with the same promise to survive a power loss."""

    def __init__(self, folder: str, payload: bytes) -> None:
        self.payload = payload
        self.count = 0
        path = os.path.join(folder, "peer.db")
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.executescript(TABLES)

    def commit(self, rows: int) -> None:
        numbers = range(self.count + 1, self.count + rows + 1)
        self.count += rows
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        self.connection.executemany(REQUEST, map(self.request, numbers))
        self.connection.executemany(CALL, [(number, self.payload, b"") for number in numbers])
        execute("COMMIT")

    def request(self, number: int) -> tuple[object, ...]:
        names = (f"bench-{number}", "acme", "paint", "draw", "prod", "r-1", "", b"", 0)
        state = (None, None, 1e9, "queued", 1, "", None, 1e9, 0, 0, len(self.payload), None, None)
        return (number, *names, *state)

    def rate(self, rows: int, batch: int) -> float:
        """Return how many rows it commits in a second."""
        began = perf_counter()
        for _ in range(rows // batch):
            self.commit(batch)
        return rows / (perf_counter() - began)
