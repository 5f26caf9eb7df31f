"""Single files of the hub: blobs by digest, their hashes, media by ref."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.hub.connection import raise_for, segment
from gen_worker.models.hub.errors import (
    HubAuthError,
    HubRequestError,
    HubUnreachableError,
)
from gen_worker.models.hub.wire import CHUNK_BYTES
from gen_worker.models.snapshot import parse_blake3

if TYPE_CHECKING:
    import httpx

    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub.connection import HubConnection

__all__ = ["BlobCalls"]

_COPY_BYTES = 1024 * 1024
_BLOB_TIMEOUT_S = 300.0


class BlobCalls:
    """The part of a client that reads single files."""

    connection: HubConnection

    def blob_url(self, digest: str) -> str:
        """Return where a blob is read with this client's token."""
        return self.connection.url(_blob_path(digest))

    def get_blob(
        self,
        digest: str,
        destination: str,
        *,
        max_bytes: int | None = None,
        cancel: CancelToken | None = None,
    ) -> int:
        """Download one blob, verified; the file appears under its name only when it is whole.

        For small files; there is no resuming.

        Returns:
            Its size in bytes.

        Raises:
            HubAuthError: The token does not allow it.
            ArtifactTransferError: It is not there, or not what its digest says.
        """
        hexdigest = parse_blake3(digest)
        temporary = f"{destination}.{secrets.token_hex(8)}.tmp"
        try:
            size = self._download(hexdigest, temporary, max_bytes, cancel)
            os.replace(temporary, destination)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)
        return size

    def chunk_hashes(self, digest: str) -> tuple[str, ...] | None:
        """Return the BLAKE3, in hex, of every 8 MiB of a blob; None where a hub does not tell."""
        path = f"/api/v1/blobs/blake3:{parse_blake3(digest)}/chunks"
        reply = self.connection.call("GET", path, phase="chunks")
        if reply.status in (404, 405, 501):
            return None
        raise_for(reply, "chunks")
        record = reply.record("chunks")
        chunks = record.get("chunks")
        if record.get("chunk_bytes") != CHUNK_BYTES or not isinstance(chunks, list):
            return None
        return tuple(parse_blake3(str(chunk)) for chunk in chunks)

    def file_facts(self, ref: str) -> dict[str, str] | None:
        """Return `sha256`, `size_bytes` and `mime_type` of a file; None when there is none."""
        path = f"/api/v1/file/{segment(ref)}"
        reply = self.connection.call("HEAD", path, phase="file", timeout_s=10.0)
        if reply.status == 404:
            return None
        raise_for(reply, "file")
        names = {"sha256": "SHA256", "size_bytes": "Size-Bytes", "mime_type": "Mime-Type"}
        return {name: reply.headers.get(f"X-Cozy-{header}", "") for name, header in names.items()}

    def file_url(self, ref: str) -> str:
        """Return where a file is read with this client's token."""
        return self.connection.url(f"/api/v1/file/{segment(ref)}")

    def _download(
        self, digest: str, path: str, max_bytes: int | None, cancel: CancelToken | None
    ) -> int:
        import httpx
        from blake3 import blake3

        hasher, size = blake3(), 0
        try:
            with (
                self.connection.stream(
                    "GET", _blob_path(digest), timeout_s=_BLOB_TIMEOUT_S, headers={}
                ) as response,
                open(path, "xb") as file,
            ):
                _raise_for_blob(response, digest)
                for piece in response.iter_bytes(_COPY_BYTES):
                    if cancel is not None:
                        cancel.raise_if_canceled()
                    size += len(piece)
                    if max_bytes is not None and size > max_bytes:
                        raise _bad_blob(digest, f"has more than {max_bytes} bytes")
                    hasher.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except httpx.TransportError as error:
            raise HubUnreachableError(
                f"blob {digest} broke off after {size} bytes",
                phase="blob",
                cause_type=type(error).__name__,
            ) from error
        if hasher.hexdigest() != digest:
            raise _bad_blob(digest, f"has the BLAKE3 {hasher.hexdigest()}")
        return size


def _raise_for_blob(response: httpx.Response, digest: str) -> None:
    if response.status_code in (401, 403):
        raise HubAuthError(
            f"the hub refuses to hand out blob {digest}", status_code=response.status_code
        )
    if response.status_code != 200:
        raise HubRequestError(
            f"blob {digest} cannot be had",
            phase="blob",
            status_code=response.status_code,
            retryable=response.status_code >= 500,
        )


def _bad_blob(digest: str, problem: str) -> ArtifactTransferError:
    return ArtifactTransferError(
        f"blob {digest} {problem}: the hub is broken, or something between",
        provider="tensorhub",
        phase="blob",
    )


def _blob_path(digest: str) -> str:
    return f"/api/v1/blobs/blake3:{parse_blake3(digest)}/content"
