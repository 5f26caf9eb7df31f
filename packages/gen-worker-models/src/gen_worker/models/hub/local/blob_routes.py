"""Bytes out: signed blobs, blobs by digest, their hashes, and files by ref (routes 3, 4, 13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.models.hub.local.asgi import Answer, FileAnswer
from gen_worker.models.hub.local.names import check_digest
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.routing import Route
from gen_worker.models.hub.wire import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.hub.local.asgi import Call
    from gen_worker.models.hub.local.database import Row
    from gen_worker.models.hub.local.rooms import Rooms

__all__ = ["BlobRoutes"]

_HASH_BYTES = 32


class BlobRoutes:
    """Serves files."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def table(self) -> Sequence[Route]:
        return (
            Route("GET HEAD", "/blob/{digest}", "nothing", self.signed),
            Route("GET HEAD", "/api/v1/blobs/{digest}/content", "read", self.content),
            Route("GET", "/api/v1/blobs/{digest}/chunks", "read", self.chunks),
            Route("GET HEAD", "/api/v1/file/{ref*}", "read", self.file),
        )

    def signed(self, call: Call) -> FileAnswer:
        digest = call.params["digest"]
        problem = self._rooms.signer.problem(call.query, "blob", digest)
        if problem is not None:
            raise Refusal(403, "url_refused", problem)
        return self._blob(check_digest(digest))

    def content(self, call: Call) -> FileAnswer:
        return self._blob(self._readable(call))

    def chunks(self, call: Call) -> Answer:
        """Tell the BLAKE3 of every 8 MiB of a blob, so that damage is mended piece by piece."""
        digest = self._readable(call)
        row = self._rooms.database.row("SELECT hashes FROM chunks WHERE blake3 = ?", digest)
        hashes: bytes = row["hashes"] if row else self._hash_chunks(digest)
        return Answer(
            {
                "digest": f"blake3:{digest}",
                "size_bytes": self._rooms.blobs.size(digest),
                "chunk_bytes": CHUNK_BYTES,
                "chunks": [
                    hashes[start : start + _HASH_BYTES].hex()
                    for start in range(0, len(hashes), _HASH_BYTES)
                ],
            }
        )

    def file(self, call: Call) -> FileAnswer:
        """Serve what was uploaded as media under a ref, or by its id."""
        row = self._media(call)
        headers = {
            "x-cozy-sha256": row["sha256"],
            "x-cozy-size-bytes": str(row["size_bytes"]),
            "x-cozy-mime-type": row["mime_type"],
        }
        return FileAnswer(
            self._rooms.media.path(row),
            etag=row["blake3"],
            content_type=row["mime_type"],
            headers=headers,
        )

    def _media(self, call: Call) -> Row:
        ref, owner = call.params["ref"], call.headers.get("x-cozy-owner", "").lower()
        # Whoever has rights file by file may have been given one of another owner.
        row = self._rooms.media.find(ref, owner if call.principal.files is None else "")
        if row is None:
            raise Refusal(404, "file_not_found", f"there is no file {ref!r:.200}")
        call.principal.check_file(row["owner"], row["ref"], "read")
        return row

    def _readable(self, call: Call) -> str:
        digest = check_digest(call.params["digest"])
        if not self._rooms.may_read_blob(call.principal, digest):
            raise Refusal(403, "forbidden", "the token may read no repository that has this blob")
        if self._rooms.blobs.size(digest) is None:
            raise _no_blob(digest)
        return digest

    def _blob(self, digest: str) -> FileAnswer:
        if self._rooms.blobs.size(digest) is None:
            raise _no_blob(digest)
        return FileAnswer(self._rooms.blobs.path(digest), etag=digest)

    def _hash_chunks(self, digest: str) -> bytes:
        from blake3 import blake3

        found = bytearray()
        with open(self._rooms.blobs.path(digest), "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                found += blake3(chunk, max_threads=blake3.AUTO).digest()
        self._rooms.database.run(
            "INSERT OR REPLACE INTO chunks (blake3, hashes) VALUES (?, ?)", digest, bytes(found)
        )
        return bytes(found)


def _no_blob(digest: str) -> Refusal:
    return Refusal(404, "blob_not_found", f"there is no blob {digest}")
