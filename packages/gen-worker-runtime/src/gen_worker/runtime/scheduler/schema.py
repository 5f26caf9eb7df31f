"""The tables of the scheduler's database, as the steps that made them.

A step is never changed once it was released: `PRAGMA user_version` counts those a database has.
"""

from __future__ import annotations

__all__ = ["EVENT_BITS", "MAX_EVENTS", "MIGRATIONS"]

EVENT_BITS = 24
"""An event's key is its request's seq, shifted by so many bits, plus its id: one B-tree, in which
the events of a request lie side by side."""
MAX_EVENTS = (1 << EVENT_BITS) - 1024
"""Of what a request produces; the others are for its attempts and its end."""

_REQUESTS = """
CREATE TABLE requests (
    seq INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    function TEXT NOT NULL,
    tag TEXT NOT NULL,
    release_id TEXT NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    priority INTEGER NOT NULL,
    timeout_ms INTEGER,
    deadline_at REAL,
    created_at REAL NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    started_at REAL,
    due_at REAL NOT NULL,
    last_event_id INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    ended_at REAL,
    ending BLOB
);
CREATE UNIQUE INDEX requests_by_key ON requests (owner, key) WHERE key <> '';
CREATE INDEX requests_by_end ON requests (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE calls (
    seq INTEGER PRIMARY KEY,
    payload BLOB NOT NULL,
    options BLOB NOT NULL
);
CREATE TABLE events (
    key INTEGER PRIMARY KEY,
    name BLOB NOT NULL,
    data BLOB NOT NULL
);
"""

_RELEASES = """
CREATE TABLE releases (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    release_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    created_by TEXT NOT NULL,
    environment TEXT NOT NULL,
    functions TEXT NOT NULL,
    manifest BLOB NOT NULL,
    UNIQUE (owner, endpoint, release_id)
);
CREATE TABLE tags (
    owner TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    tag TEXT NOT NULL,
    function TEXT NOT NULL,
    change INTEGER NOT NULL,
    release_id TEXT NOT NULL,
    PRIMARY KEY (owner, endpoint, tag, function)
) WITHOUT ROWID;
CREATE TABLE tag_steps (
    owner TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    tag TEXT NOT NULL,
    function TEXT NOT NULL,
    change INTEGER NOT NULL,
    release_id TEXT NOT NULL,
    PRIMARY KEY (owner, endpoint, tag, function, change)
) WITHOUT ROWID;
CREATE TABLE tag_changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    tag TEXT NOT NULL,
    action TEXT NOT NULL,
    changed_at REAL NOT NULL,
    changed_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    moves TEXT NOT NULL
);
CREATE INDEX tag_changes_by_endpoint ON tag_changes (owner, endpoint, number);
"""

_WEBHOOKS = """
CREATE TABLE webhooks (
    seq INTEGER NOT NULL,
    event TEXT NOT NULL,
    request_id TEXT NOT NULL,
    webhook_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    url TEXT NOT NULL,
    origin TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    happened_at REAL,
    next_at REAL NOT NULL,
    last_at REAL,
    last_status INTEGER NOT NULL,
    last_error TEXT NOT NULL,
    PRIMARY KEY (seq, event)
) WITHOUT ROWID;
CREATE INDEX webhooks_waiting ON webhooks (seq) WHERE state = 'waiting';
CREATE INDEX webhooks_pending ON webhooks (next_at, origin) WHERE state = 'pending';
CREATE INDEX webhooks_over ON webhooks (last_at) WHERE state IN ('delivered', 'failed', 'gone');
"""

_MARKS = """
CREATE TABLE marks (
    seq INTEGER PRIMARY KEY,
    lost INTEGER NOT NULL,
    cancel TEXT NOT NULL
);
"""

_LEARNED = """
CREATE TABLE learned (
    name TEXT PRIMARY KEY,
    data BLOB NOT NULL
) WITHOUT ROWID;
"""

_TOKENS = """
CREATE TABLE tokens (
    token_id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    owner TEXT,
    created_at REAL NOT NULL,
    created_by TEXT NOT NULL,
    used_on INTEGER,
    revoked_at REAL
) WITHOUT ROWID;
"""

MIGRATIONS = (_REQUESTS, _RELEASES, _WEBHOOKS, _MARKS, _LEARNED, _TOKENS)
