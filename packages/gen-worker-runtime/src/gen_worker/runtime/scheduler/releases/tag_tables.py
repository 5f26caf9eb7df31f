"""Tags in the scheduler's database: what they point to, and each change of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.runtime.scheduler.releases.errors import UnknownReleaseError
from gen_worker.runtime.scheduler.releases.history import (
    Line,
    Step,
    moved_back,
    moved_forward,
    promoted,
    promoted_whole,
)
from gen_worker.runtime.scheduler.releases.values import Move, TagChange, TagTarget

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from gen_worker.runtime.scheduler.releases.history import Lines
    from gen_worker.runtime.scheduler.releases.values import ReleaseRecord, TagAction

__all__ = ["Author", "TagOf", "drop_tag", "history_of", "move", "promote", "targets"]

_OF_TAG = "owner = ? AND endpoint = ? AND tag = ?"
_decode_moves = msgspec.json.Decoder(tuple[Move, ...]).decode


class TagOf(NamedTuple):
    """A tag of an endpoint."""

    owner: str
    endpoint: str
    tag: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.endpoint}:{self.tag}"


class Author(NamedTuple):
    """Who changes a tag, when and why."""

    at: float
    by: str
    reason: str


def promote(
    connection: sqlite3.Connection,
    tag: TagOf,
    release: ReleaseRecord,
    function: str,
    author: Author,
) -> TagChange | None:
    """Point a tag of a function, or of the endpoint, at a release; None when it does already.

    Raises:
        UnknownReleaseError: It has no such function.
    """
    release_id = release.release_id
    if function and function not in release.functions:
        known = ", ".join(release.functions)
        raise UnknownReleaseError(
            f"release {release_id} of {tag.owner}/{tag.endpoint} has no function {function!r}: "
            f"it has {known}"
        )
    before = _lines(connection, tag)
    number = _next_change(connection)
    if function:
        after = promoted(before, number, release_id, (function,))
    else:
        after = promoted_whole(before, number, release_id, release.functions)
    return _moved(connection, tag, "promote", before, after, author)


def move(
    connection: sqlite3.Connection, tag: TagOf, action: TagAction, function: str, author: Author
) -> TagChange | None:
    """Move a tag back to what it pointed to before, or forward again.

    Raises:
        UnknownReleaseError: There is no such tag.
        NoOtherReleaseError: There is nothing to move it to.
    """
    before = _lines(connection, tag)
    if not before or (function and function not in before):
        named = f"{tag.owner}/{tag.endpoint}/{function}:{tag.tag}" if function else str(tag)
        raise UnknownReleaseError(f"there is no tag {named}: promote a release first")
    change = moved_back if action == "rollback" else moved_forward
    return _moved(connection, tag, action, before, change(before, function), author)


def drop_tag(connection: sqlite3.Connection, tag: TagOf, author: Author) -> TagChange | None:
    """Forget a tag of an endpoint, with what it pointed to before; None when there is none."""
    before = _lines(connection, tag)
    if not before:
        return None
    for table in ("tags", "tag_steps"):
        connection.execute(f"DELETE FROM {table} WHERE {_OF_TAG}", tag)
    return _noted(connection, tag, "remove", before, {}, author)


# -- questions -------------------------------------------------------------------------------------


def targets(connection: sqlite3.Connection) -> tuple[TagTarget, ...]:
    """Return where every tag points."""
    query = "SELECT owner, endpoint, tag, function, release_id FROM tags WHERE release_id <> ''"
    return tuple(TagTarget(*row) for row in connection.execute(query))


def history_of(
    connection: sqlite3.Connection, owner: str, endpoint: str, tag: str | None, limit: int
) -> tuple[TagChange, ...]:
    """Return changes of an endpoint's tags, the latest first."""
    rows = connection.execute(
        "SELECT number, owner, endpoint, tag, action, changed_at, changed_by, reason, moves"
        " FROM tag_changes WHERE owner = :owner AND endpoint = :endpoint"
        " AND (:tag IS NULL OR tag = :tag) ORDER BY number DESC LIMIT :limit",
        {"owner": owner, "endpoint": endpoint, "tag": tag, "limit": limit},
    )
    return tuple(TagChange._make((*row[:-1], _decode_moves(row[-1]))) for row in rows)


# -- rows ------------------------------------------------------------------------------------------


def _next_change(connection: sqlite3.Connection) -> int:
    query = "SELECT ifnull(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'tag_changes'"
    (number,) = connection.execute(query).fetchone()
    return int(number)


def _lines(connection: sqlite3.Connection, tag: TagOf) -> Lines:
    steps: dict[str, list[Step]] = {}
    query = f"SELECT function, change, release_id FROM tag_steps WHERE {_OF_TAG} ORDER BY change"
    for function, change, release_id in connection.execute(query, tag):
        steps.setdefault(function, []).append(Step(change, release_id))
    rows = connection.execute(f"SELECT function, change FROM tags WHERE {_OF_TAG}", tag)
    return {function: Line(tuple(steps.get(function, ())), change) for function, change in rows}


def _moved(
    connection: sqlite3.Connection,
    tag: TagOf,
    action: TagAction,
    before: Lines,
    after: Lines,
    author: Author,
) -> TagChange | None:
    """Write what differs; steps that were taken back go even when nothing else does."""
    for function, line in after.items():
        old = before.get(function, Line())
        if line == old:
            continue
        key = (*tag, function)
        for change, _ in set(old.steps) - set(line.steps):
            query = f"DELETE FROM tag_steps WHERE {_OF_TAG} AND function = ? AND change = ?"
            connection.execute(query, (*key, change))
        for step in set(line.steps) - set(old.steps):
            connection.execute("INSERT INTO tag_steps VALUES (?, ?, ?, ?, ?, ?)", (*key, *step))
        row = (*key, line.change, line.release_id)
        connection.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?)", row)
    return _noted(connection, tag, action, before, after, author)


def _noted(
    connection: sqlite3.Connection,
    tag: TagOf,
    action: TagAction,
    before: Mapping[str, Line],
    after: Mapping[str, Line],
    author: Author,
) -> TagChange | None:
    found = (
        Move(name, before.get(name, Line()).release_id, after.get(name, Line()).release_id)
        for name in sorted(before.keys() | after.keys())
    )
    moves = tuple(one for one in found if one.from_release != one.to_release)
    if not moves:
        return None
    number = connection.execute(
        "INSERT INTO tag_changes (owner, endpoint, tag, action, changed_at, changed_by, reason,"
        " moves) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*tag, action, *author, msgspec.json.encode(moves).decode()),
    ).lastrowid
    assert number is not None
    return TagChange(number, *tag, action, *author, moves)
