"""Removes what nothing refers to any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.hub.local.blobs import Blobs
    from gen_worker.models.hub.local.database import Database
    from gen_worker.models.hub.local.uploads import Uploads

__all__ = ["Collected", "collect"]

_REFERRED = """
SELECT blake3 FROM entries UNION SELECT blake3 FROM media UNION SELECT blake3 FROM dataset_blobs
UNION SELECT u.blake3 FROM uploads u JOIN revisions r ON r.id = u.revision
WHERE u.state = 'complete' AND (r.state = 'finalizing' OR (r.state IN ('open', 'failed')
AND r.expires_at > ?))
"""
_UNREACHED = """
id NOT IN (SELECT checkpoint FROM members JOIN tags USING (release))
AND id NOT IN (SELECT checkpoint FROM ingests WHERE checkpoint IS NOT NULL) AND created_at < ?
"""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed."""

    blobs: int
    blob_bytes: int
    upload_bytes: int
    """Of uploads that were broken off."""
    checkpoints: int


def collect(
    database: Database,
    blobs: Blobs,
    uploads: Uploads,
    *,
    now: Callable[[], float],
    older_than_s: float,
    untagged: bool,
) -> Collected:
    """Remove what is older than `older_than_s` and referred to by nothing.

    Blobs are removed inside one transaction, and a publication looks for its blobs inside another:
    whoever comes second sees what the first has done.

    Args:
        database: The hub's records.
        blobs: The hub's files.
        uploads: What is being sent.
        now: The hub's clock.
        older_than_s: What is younger may belong to a publication that is just being made.
        untagged: Also give up checkpoints that no tag leads to; refs pinned to them end.
    """
    limit = now() - older_than_s
    upload_bytes = uploads.drop_staging(older_than=limit)
    blobs.drop_temporaries(older_than=limit)
    with database.writing():
        checkpoints = _drop_untagged(database, limit) if untagged else 0
        database.run(
            "UPDATE revisions SET state = 'aborted' "
            "WHERE state IN ('open', 'failed') AND expires_at < ?",
            now(),
        )
        kept = {row["blake3"] for row in database.rows(_REFERRED, now())}
        count = size = 0
        for name, state in blobs.all():
            if name in kept or state.st_mtime >= limit:
                continue
            blobs.remove(name)
            database.run("DELETE FROM chunks WHERE blake3 = ?", name)
            database.run("DELETE FROM uploads WHERE blake3 = ? AND state = 'complete'", name)
            count, size = count + 1, size + state.st_size
    return Collected(
        blobs=count, blob_bytes=size, upload_bytes=upload_bytes, checkpoints=checkpoints
    )


def _drop_untagged(database: Database, limit: float) -> int:
    """Remove checkpoints no tag leads to, and releases nothing is left of."""
    rows = database.rows(f"SELECT id FROM checkpoints WHERE {_UNREACHED}", limit)
    gone = [(row["id"],) for row in rows]
    database.run_all("DELETE FROM members WHERE checkpoint = ?", gone)
    database.run_all("DELETE FROM checkpoints WHERE id = ?", gone)
    database.run(
        "DELETE FROM releases WHERE id NOT IN (SELECT release FROM members) "
        "AND id NOT IN (SELECT release FROM tags)"
    )
    return len(gone)
