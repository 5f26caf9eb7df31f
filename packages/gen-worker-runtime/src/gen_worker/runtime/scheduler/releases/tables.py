"""Releases in the scheduler's database; what changes them is inside of a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.manifest import Manifest
from gen_worker.runtime.scheduler.releases.errors import ReleaseInUseError, UnknownReleaseError
from gen_worker.runtime.scheduler.releases.tag_tables import Author, TagOf, promote
from gen_worker.runtime.scheduler.releases.values import Published, ReleaseRecord

if TYPE_CHECKING:
    import sqlite3

__all__ = ["delete", "manifest_of", "record", "release_ids", "releases_of", "required"]

_COLUMNS = "number, owner, endpoint, release_id, created_at, created_by, environment, functions"
_OF_RELEASE = "owner = ? AND endpoint = ? AND release_id = ?"


def record(
    connection: sqlite3.Connection, new: ReleaseRecord, manifest: Manifest, first_tag: str
) -> Published:
    """Note a release of an endpoint; `first_tag` is set when the endpoint has no other."""
    name = (new.owner, new.endpoint)
    found = _find(connection, *name, new.release_id)
    if found is not None:
        return Published(found, is_new=False, change=None)
    query = "SELECT 1 FROM releases WHERE owner = ? AND endpoint = ?"
    is_first = connection.execute(query, name).fetchone() is None
    row = (
        *new[1:-1],
        msgspec.json.encode(new.functions).decode(),
        msgspec.msgpack.encode(manifest),
    )
    number = connection.execute(
        "INSERT INTO releases (owner, endpoint, release_id, created_at, created_by, environment,"
        " functions, manifest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    ).lastrowid
    assert number is not None
    change, kept = None, new._replace(number=number)
    if is_first and first_tag:
        author = Author(new.created_at, new.created_by, "the endpoint's first release")
        change = promote(connection, TagOf(*name, first_tag), kept, "", author)
    return Published(kept, is_new=True, change=change)


def delete(
    connection: sqlite3.Connection, owner: str, endpoint: str, release_id: str, *, is_named: bool
) -> bool:
    """Forget a release; return whether no endpoint has it any more.

    Args:
        connection: In a transaction.
        owner: Whose endpoint.
        endpoint: Which.
        release_id: Which release.
        is_named: Whether callers' names led to it when this was asked: a request that was resolved
            may come after this.

    Raises:
        UnknownReleaseError: There is no such release.
        ReleaseInUseError: A tag or an unfinished request names it.
    """
    required(connection, owner, endpoint, release_id)
    name = (owner, endpoint, release_id)
    users = connection.execute(
        f"SELECT function, tag FROM tags WHERE {_OF_RELEASE} ORDER BY tag, function", name
    ).fetchall()
    if users:
        shown = ", ".join(f"{owner}/{endpoint}/{function}:{tag}" for function, tag in users[:5])
        raise ReleaseInUseError(
            f"release {release_id} stays for {shown}: promote another release there first"
        )
    if is_named:
        raise ReleaseInUseError(
            f"release {release_id} stays, its tags have only just been moved: ask again"
        )
    query = "SELECT request_id FROM requests WHERE ended_at IS NULL AND release_id = ? LIMIT 1"
    running = connection.execute(query, (release_id,)).fetchone()
    if running is not None:
        raise ReleaseInUseError(
            f"release {release_id} stays, request {running[0]!r} has not ended: wait for it, "
            "or cancel it"
        )
    for table in ("releases", "tag_steps"):
        connection.execute(f"DELETE FROM {table} WHERE {_OF_RELEASE}", name)
    query = "SELECT 1 FROM releases WHERE release_id = ?"
    return connection.execute(query, (release_id,)).fetchone() is None


# -- questions -------------------------------------------------------------------------------------


def release_ids(connection: sqlite3.Connection) -> frozenset[str]:
    """Return every release that some endpoint has."""
    return frozenset(row[0] for row in connection.execute("SELECT release_id FROM releases"))


def releases_of(
    connection: sqlite3.Connection, owner: str | None, endpoint: str | None
) -> tuple[ReleaseRecord, ...]:
    """Return releases, the latest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM releases WHERE (:owner IS NULL OR owner = :owner)"
        " AND (:endpoint IS NULL OR endpoint = :endpoint) ORDER BY number DESC",
        {"owner": owner, "endpoint": endpoint},
    )
    return tuple(map(_record_of, rows))


def manifest_of(
    connection: sqlite3.Connection, owner: str, endpoint: str, release_id: str
) -> Manifest:
    """Return a release's lock.

    Raises:
        UnknownReleaseError: There is no such release.
    """
    query = f"SELECT manifest FROM releases WHERE {_OF_RELEASE}"
    row = connection.execute(query, (owner, endpoint, release_id)).fetchone()
    if row is None:
        raise _unknown(connection, owner, endpoint, release_id)
    return msgspec.msgpack.decode(row[0], type=Manifest)


# -- rows ------------------------------------------------------------------------------------------


def _record_of(row: tuple[object, ...]) -> ReleaseRecord:
    fields = (*row[:-1], msgspec.json.decode(str(row[-1]), type=tuple[str, ...]))
    return msgspec.convert(fields, ReleaseRecord)


def _find(
    connection: sqlite3.Connection, owner: str, endpoint: str, release_id: str
) -> ReleaseRecord | None:
    query = f"SELECT {_COLUMNS} FROM releases WHERE {_OF_RELEASE}"
    row = connection.execute(query, (owner, endpoint, release_id)).fetchone()
    return None if row is None else _record_of(row)


def required(
    connection: sqlite3.Connection, owner: str, endpoint: str, release_id: str
) -> ReleaseRecord:
    """Return a release of an endpoint.

    Raises:
        UnknownReleaseError: There is none.
    """
    found = _find(connection, owner, endpoint, release_id)
    if found is None:
        raise _unknown(connection, owner, endpoint, release_id)
    return found


def _unknown(
    connection: sqlite3.Connection, owner: str, endpoint: str, release_id: str
) -> UnknownReleaseError:
    others = [one.release_id for one in releases_of(connection, owner, endpoint)]
    known = f"the latest are {', '.join(others[:5])}" if others else "it has none, publish one"
    return UnknownReleaseError(f"{owner}/{endpoint} has no release {release_id!r}: {known}")
