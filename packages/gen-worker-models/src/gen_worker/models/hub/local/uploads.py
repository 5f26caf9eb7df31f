"""Uploads: what was sent so far is kept per content, so that another attempt goes on from there.

Parts are files whose names hold their number and ETag, moved into place when they are complete:
after a crash the folder is the truth. What counts is the digest of the whole, compared at the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.models.hub.local.names import check_digest
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.staging import Part, assemble, link_or_copy, parts_in
from gen_worker.models.store.durable import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.hub.local.blobs import Blobs
    from gen_worker.models.hub.local.database import Database, Row
    from gen_worker.models.hub.local.media import Media
    from gen_worker.models.hub.local.requests import CompleteBody, CreateBody

__all__ = ["OBJECT", "Home", "Limits", "Uploads"]

_MAX_REF_CHARS = 1024
OBJECT = "object"
"""File of a staging folder that was sent as a whole, or put together by the S3 side."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one upload may be."""

    part_bytes: int
    max_file_bytes: int


class Home(NamedTuple):
    """Where an upload belongs: a revision of a repository, or an owner's media."""

    domain: str
    """`repo` or `media`."""
    owner: str
    name: str = ""
    revision: str = ""


class Uploads:
    """Takes files in."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        media: Media,
        root: str,
        limits: Limits,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._media = media
        self._root = root
        self._limits = limits
        self._now = now
        os.makedirs(root, exist_ok=True)

    def create(self, home: Home, body: CreateBody, *, may_dedup: Callable[[str], bool]) -> Row:
        """Return the record of an upload; the same file sent again goes on where it was.

        Args:
            home: Where it belongs.
            body: What is to be sent.
            may_dedup: Whether the sender may have the blob of a digest without sending it.

        Raises:
            Refusal: The body is wrong, or the file too large.
        """
        ref = body.path or body.ref
        if not ref or len(ref) > _MAX_REF_CHARS:
            raise Refusal(400, "invalid_ref", "a file needs a path or ref of 1 to 1024 characters")
        digest = check_digest(body.blake3)
        if not 0 <= body.size_bytes <= self._limits.max_file_bytes:
            raise Refusal(
                413,
                "file_too_large",
                f"{ref!r:.200} has {body.size_bytes} bytes, at most "
                f"{self._limits.max_file_bytes} are taken",
            )
        staging = self._staging_of(home, digest, body.size_bytes)
        with self._database.writing():
            row = self._same(home, ref, digest, body.size_bytes)
            if row is None:
                row = self._insert(home, ref, digest, body, staging)
            if row["state"] == "open" and self._is_here(digest, body.size_bytes, may_dedup):
                row = self.finish(row)
            return row

    def need(self, upload: str) -> Row:
        row = self._database.row("SELECT * FROM uploads WHERE id = ?", upload)
        if row is None:
            raise Refusal(404, "upload_not_found", f"there is no upload {upload!r:.80}")
        return row

    def need_in(self, home: Home, upload: str) -> Row:
        """Return the record of an upload that belongs there."""
        row = self.need(upload)
        if Home(row["domain"], row["owner"], row["name"], row["revision"]) != home:
            raise Refusal(404, "upload_not_found", f"there is no upload {upload!r:.80}")
        return row

    def need_open(self, upload: str) -> Row:
        row = self.need(upload)
        if row["state"] != "open":
            raise Refusal(409, "upload_complete", "the upload is complete")
        return row

    def part_sizes(self, row: Row) -> list[int]:
        """Return how many bytes each part has to have."""
        size, part = row["size_bytes"], self._limits.part_bytes
        return [min(part, size - start) for start in range(0, size, part)] or [0]

    def folder(self, row: Row) -> str:
        """Return the folder of what was sent so far, which exists afterwards."""
        path = os.path.join(self._root, row["staging"])
        os.makedirs(path, exist_ok=True)
        return path

    def parts(self, row: Row) -> list[Part]:
        """Return the parts that are here in full, one of each number."""
        sizes = self.part_sizes(row)
        found = {
            part.number: part
            for part in parts_in(os.path.join(self._root, row["staging"]))
            if 0 < part.number <= len(sizes) and part.size_bytes == sizes[part.number - 1]
        }
        return [found[number] for number in sorted(found)]

    def complete(self, row: Row, body: CompleteBody) -> Row:
        """Put the parts together, compare the digest, and keep the blob.

        Raises:
            Refusal: A part is missing, or the bytes are not those that were announced; then all
                of them are dropped.
        """
        if row["state"] == "complete":
            return row
        temporary = self._blobs.new_temporary()
        try:
            if body.parts is None:
                self._take_object(row, temporary)
            else:
                assemble(self._chosen(row, body), temporary)
            self._verify(row, temporary)
            self._blobs.adopt(temporary, row["blake3"])
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
        with self._database.writing():
            row = self.finish(self.need(row["id"]))
        self._clear(row["staging"])
        return row

    def finish(self, row: Row) -> Row:
        """Record that the bytes are here. Inside a transaction."""
        if row["state"] == "complete":
            return row
        answer: dict[str, Any] = {
            "ref": row["ref"],
            "size_bytes": row["size_bytes"],
            "blake3": row["blake3"],
            "blob_digest": f"blake3:{row['blake3']}",
            "blob_domain": row["domain"],
            "mime_type": row["mime_type"],
        }
        if row["domain"] == "media":
            answer |= self._media.add(
                owner=row["owner"],
                ref=row["ref"],
                blake3=row["blake3"],
                size=row["size_bytes"],
                mime_type=row["mime_type"],
            )
        self._database.run(
            "UPDATE uploads SET state = 'complete', answer = ? WHERE id = ?",
            msgspec.json.encode(answer).decode(),
            row["id"],
        )
        return self.need(row["id"])

    def abort(self, row: Row) -> None:
        """Forget an upload and what was sent of it; one that is complete stays."""
        if row["state"] == "complete":
            return
        self._database.run("DELETE FROM uploads WHERE id = ?", row["id"])
        self._clear(row["staging"])

    def drop_staging(self, *, older_than: float) -> int:
        """Remove what was sent of uploads nobody went on with; return how many bytes."""
        freed = 0
        for name in os.listdir(self._root):
            with contextlib.suppress(FileNotFoundError):  # completed or aborted meanwhile
                freed += self._drop_old(name, older_than)
        return freed

    def _drop_old(self, name: str, older_than: float) -> int:
        folder = os.path.join(self._root, name)
        files = [os.path.join(base, file) for base, _, found in os.walk(folder) for file in found]
        if max(os.stat(path).st_mtime for path in (folder, *files)) >= older_than:
            return 0
        size = sum(os.stat(path).st_size for path in files)
        self._database.run("DELETE FROM uploads WHERE staging = ? AND state = 'open'", name)
        shutil.rmtree(folder, ignore_errors=True)
        return size

    def _staging_of(self, home: Home, digest: str, size: int) -> str:
        """Name the folder by content, owner and size of the parts, whoever asks."""
        from blake3 import blake3

        facts = (
            home.domain,
            home.owner,
            home.name,
            digest,
            str(size),
            str(self._limits.part_bytes),
        )
        return str(blake3("\0".join(facts).encode()).hexdigest())[:40]

    def _same(self, home: Home, ref: str, digest: str, size: int) -> Row | None:
        return self._database.row(
            "SELECT * FROM uploads WHERE domain = ? AND owner = ? AND name = ? AND revision = ? "
            "AND ref = ? AND blake3 = ? AND size_bytes = ? ORDER BY state",
            *home,
            ref,
            digest,
            size,
        )

    def _insert(self, home: Home, ref: str, digest: str, body: CreateBody, staging: str) -> Row:
        upload = secrets.token_hex(16)
        self._database.run(
            "INSERT INTO uploads (id, domain, owner, name, revision, ref, blake3, size_bytes, "
            "mime_type, staging, state, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', ?)",
            upload,
            *home,
            ref,
            digest,
            body.size_bytes,
            body.content_type[:200] or "application/octet-stream",
            staging,
            self._now(),
        )
        return self.need(upload)

    def _is_here(self, digest: str, size: int, may_dedup: Callable[[str], bool]) -> bool:
        if size == 0:
            return self._add_empty(digest)
        known = self._blobs.size(digest)
        if known is not None and known != size:
            raise Refusal(
                422, "size_mismatch", f"blob {digest} has {known} bytes, {size} were announced"
            )
        return known is not None and may_dedup(digest) and self._blobs.touch(digest)

    def _add_empty(self, digest: str) -> bool:
        from blake3 import blake3

        if digest != blake3().hexdigest():
            raise _mismatch(digest, blake3().hexdigest())
        if self._blobs.size(digest) is None:
            temporary = self._blobs.new_temporary()
            with open(temporary, "xb"):
                pass
            self._blobs.adopt(temporary, digest)
        return True

    def _take_object(self, row: Row, temporary: str) -> None:
        path = os.path.join(self._root, row["staging"], OBJECT)
        if not os.path.isfile(path):
            raise Refusal(409, "object_missing", "no object was put where the grant says")
        link_or_copy(path, temporary)

    def _chosen(self, row: Row, body: CompleteBody) -> list[str]:
        """Return the files of the parts that the sender lists."""
        count = len(self.part_sizes(row))
        told = {part.part_number: part.etag.strip('"') for part in body.parts or ()}
        here = {
            (part.number, part.etag): part.path
            for part in parts_in(os.path.join(self._root, row["staging"]))
        }
        paths = [here.get((number, told.get(number, ""))) for number in range(1, count + 1)]
        missing = [number for number, path in enumerate(paths, start=1) if path is None]
        if missing or len(told) != count:
            raise Refusal(
                409,
                "part_missing",
                f"{len(missing)} of {count} parts are not here with these ETags",
                missing_parts=missing[:1000],
            )
        return [path for path in paths if path is not None]

    def _verify(self, row: Row, path: str) -> None:
        size = os.stat(path).st_size
        if size != row["size_bytes"]:
            self._clear(row["staging"], force=True)
            raise Refusal(
                422, "size_mismatch", f"{size} bytes were sent, {row['size_bytes']} announced"
            )
        digest = hash_file(path)
        if digest != row["blake3"]:
            self._clear(row["staging"], force=True)
            raise _mismatch(row["blake3"], digest)

    def _clear(self, staging: str, *, force: bool = False) -> None:
        """Remove a staging folder, unless another upload of the same content goes on in it."""
        others = self._database.row(
            "SELECT 1 FROM uploads WHERE staging = ? AND state = 'open'", staging
        )
        if force or others is None:
            shutil.rmtree(os.path.join(self._root, staging), ignore_errors=True)


def _mismatch(announced: str, actual: str) -> Refusal:
    return Refusal(
        422,
        "digest_mismatch",
        f"the bytes sent have the BLAKE3 {actual}, {announced} was announced: send them again",
    )
