"""Blobs of the hub as inputs: large, named by their digest, often here already."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from gen_worker.errors import ArtifactTransferError, InputTooLargeError, ValidationError
from gen_worker.runtime.files.download import Downloader

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub import HubClient
    from gen_worker.models.net import Opener
    from gen_worker.runtime.files.download import Asked
    from gen_worker.runtime.files.limits import FilePolicy

__all__ = ["blob_name", "fetch_blob"]

_DIGEST = re.compile(r"(?:(blake3|sha256):)?([0-9a-f]{64})")


def blob_name(digest: str) -> str:
    """Return a digest as blobs are named, `<algorithm>:<hex>`; bare digits mean BLAKE3.

    Raises:
        ValidationError: It is none.
    """
    match = _DIGEST.fullmatch(digest.strip().lower())
    if match is None:
        raise ValidationError(
            f"{digest!r:.100} is no digest: give 'blake3:' or 'sha256:' and 64 hex digits"
        )
    return f"{match[1] or 'blake3'}:{match[2]}"


def fetch_blob(
    asked: Asked,
    path: str,
    token: CancelToken,
    *,
    opener: Opener,
    policy: FilePolicy,
    client: HubClient,
) -> None:
    """Put a blob at a new `path`, verified: a link to the content store's, else a download.

    Raises:
        AuthError: The job may not read it.
        InputTooLargeError: It is larger than allowed.
        ArtifactTransferError: It cannot be had.
    """
    # Whether this job may read it is the hub's to say, also of what is here already.
    headers = Downloader(opener, policy).ask(asked, token)
    size = headers.get("content-length", "")
    size_bytes = int(size) if size.isdecimal() else None
    if size_bytes is not None and size_bytes > asked.max_bytes:
        raise InputTooLargeError(
            size_bytes=size_bytes, max_bytes=asked.max_bytes, source="input file"
        )
    if not _link_stored(asked.shown, path, policy.cas_dir):
        _download(asked, path, size_bytes, token, opener, client)


def _link_stored(name: str, path: str, cas_dir: str | None) -> bool:
    from gen_worker.models.assembly import open_store
    from gen_worker.models.store.durable import link_or_copy

    try:
        stored = open_store(cas_dir).blob(name)
        link_or_copy(os.path.abspath(stored), path, final_directory=os.path.dirname(path))
    except (ArtifactTransferError, OSError):  # not here, damaged, or gone meanwhile
        return False
    return True


def _download(
    asked: Asked,
    path: str,
    size_bytes: int | None,
    token: CancelToken,
    opener: Opener,
    client: HubClient,
) -> None:
    from gen_worker.models.fetch import Fetcher, FileToFetch, Location

    is_chunked = asked.shown.startswith("blake3:")
    file = FileToFetch(
        destination=path,
        locations=(Location(asked.url, asked.headers),),
        size_bytes=size_bytes,
        digest=asked.shown,
        chunk_hashes=(lambda: client.chunk_hashes(asked.shown)) if is_chunked else None,
    )
    Fetcher(opener, durable=False).fetch([file], token=token)
    if os.stat(path).st_size > asked.max_bytes:
        raise InputTooLargeError(
            size_bytes=os.stat(path).st_size, max_bytes=asked.max_bytes, source="input file"
        )
