"""Files by ref that belong to no repository: uploads of callers, outputs of jobs."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Any

from gen_worker.models.store.durable import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.models.hub.local.blobs import Blobs
    from gen_worker.models.hub.local.database import Database, Row

__all__ = ["Media"]


class Media:
    """The records of these files; their bytes are blobs as all others. Thread-safe, blocking."""

    def __init__(self, database: Database, blobs: Blobs, now: Callable[[], float]) -> None:
        self._database = database
        self._blobs = blobs
        self._now = now

    def find(self, ref: str, owner: str = "") -> Row | None:
        """Return the record of a ref or id, the latest one; of any owner where none is named."""
        return self._database.row(
            "SELECT * FROM media WHERE (ref = ? OR id = ?) AND (? = '' OR owner = ?) "
            "ORDER BY created_at DESC",
            ref,
            ref,
            owner,
            owner,
        )

    def owners_of(self, digest: str) -> frozenset[str]:
        """Return whose files a blob is."""
        rows = self._database.rows("SELECT owner FROM media WHERE blake3 = ?", digest)
        return frozenset(row["owner"] for row in rows)

    def path(self, row: Row) -> str:
        """Return where the bytes are."""
        return self._blobs.path(row["blake3"])

    def new_path(self) -> str:
        """Return a path that nobody else has, for a file that is to be kept."""
        return self._blobs.new_temporary()

    def keep(self, path: str, *, owner: str, ref: str, mime_type: str) -> dict[str, Any]:
        """Take in a file that is whole, under a ref; durable on return.

        Args:
            path: From `new_path`; nothing is there afterwards.
            owner: Whose file.
            ref: What it is called; what had this ref of this owner is called it no longer.
            mime_type: What it is.
        """
        size, digest = os.stat(path).st_size, hash_file(path)
        self._blobs.adopt(path, digest)
        with self._database.writing():
            return self.add(owner=owner, ref=ref, blake3=digest, size=size, mime_type=mime_type)

    def add(
        self, *, owner: str, ref: str, blake3: str, size: int, mime_type: str
    ) -> dict[str, Any]:
        """Record that a blob is what a ref means. Inside a transaction."""
        from hashlib import file_digest

        with open(self._blobs.path(blake3), "rb") as file:
            sha256 = file_digest(file, "sha256").hexdigest()
        media_id = secrets.token_hex(16)
        self._database.run(
            "INSERT INTO media (id, owner, ref, blake3, sha256, size_bytes, mime_type, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, ref) DO UPDATE SET "
            "id = excluded.id, blake3 = excluded.blake3, sha256 = excluded.sha256, "
            "size_bytes = excluded.size_bytes, mime_type = excluded.mime_type, "
            "created_at = excluded.created_at",
            media_id,
            owner,
            ref,
            blake3,
            sha256,
            size,
            mime_type,
            self._now(),
        )
        return {"media_id": media_id, "sha256": sha256}

    def folders(self, parent: str, *, older_than: float) -> list[str]:
        """Return the folders in `parent`, such as `jobs`, of which every file is older.

        Args:
            parent: Without a slash at its end.
            older_than: Unix time.
        """
        start = len(parent) + 2
        rows = self._database.rows(
            f"SELECT substr(ref, 1, {start} + instr(substr(ref, {start}), '/') - 2) AS folder "
            "FROM media WHERE ref >= ? AND ref < ? GROUP BY folder HAVING max(created_at) < ?",
            f"{parent}/",
            f"{parent}0",  # the character behind the slash
            older_than,
        )
        return [row["folder"] for row in rows]

    def forget(self, folders: Iterable[str], *, older_than: float) -> None:
        """Remove the records of folders; the collection of garbage removes their bytes.

        Args:
            folders: From `folders`.
            older_than: Unix time; what came meanwhile stays.
        """
        with self._database.writing():
            for folder in folders:
                self._database.run(
                    "DELETE FROM media WHERE ref >= ? AND ref < ? AND created_at < ?",
                    f"{folder}/",
                    f"{folder}0",
                    older_than,
                )
