"""Downloading what a ref means into a folder of one's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from gen_worker.models.fetch import Fetcher, FileToFetch, Location
from gen_worker.models.net import Opener
from gen_worker.models.refs import TensorhubRef
from gen_worker.models.store.durable import hash_file
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.models.fetch import FetchProgress
    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.snapshot import SnapshotFile

__all__ = ["Pulled", "pull_folder"]


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder now has."""

    checkpoint_id: str
    folder: str
    files: int
    size_bytes: int
    fetched_bytes: int
    """Without what was there before."""


def pull_folder(
    client: HubClient,
    ref: TensorhubRef,
    folder: str | os.PathLike[str],
    *,
    progress: Callable[[FetchProgress], None] | None = None,
    cancel: CancelToken | None = None,
) -> Pulled:
    """Download every file of a model into `folder`, verified, and go on where a pull broke off.

    Files that are right already are not fetched; other files of the folder stay.

    Raises:
        NotOnHubError: A part of the ref does not exist.
        ArtifactTransferError: A file could not be fetched.
        HubAuthError: The token does not allow it.
    """
    found = client.resolve(ref, cancel=cancel)
    pinned = TensorhubRef(owner=ref.owner, repo=ref.repo, digest=found.snapshot.checkpoint_id)
    missing = [
        _to_fetch(client, pinned, file, safe_join(folder, file.path))
        for file in found.snapshot.files
        if not _is_here(safe_join(folder, file.path), file, cancel)
    ]
    opener = Opener(trusted=(client.connection.base_url,))
    report = Fetcher(opener).fetch(missing, token=cancel, progress=progress)
    return Pulled(
        checkpoint_id=found.snapshot.checkpoint_id,
        folder=os.path.abspath(folder),
        files=len(found.snapshot.files),
        size_bytes=found.snapshot.size_bytes,
        fetched_bytes=report.bytes_fetched,
    )


def _to_fetch(
    client: HubClient, pinned: TensorhubRef, file: SnapshotFile, destination: str
) -> FileToFetch:
    def refresh(_status: int) -> tuple[Location, ...]:
        fresh = client.resolve(pinned).snapshot.files
        return tuple(_location(one, client) for one in fresh if one.path == file.path)

    return FileToFetch(
        destination=destination,
        size_bytes=file.size_bytes,
        digest=f"blake3:{file.blake3}",
        locations=(_location(file, client),),
        refresh=refresh,
        chunk_hashes=lambda: client.chunk_hashes(file.blake3),
    )


def _location(file: SnapshotFile, client: HubClient) -> Location:
    if file.url:
        return Location(file.url)
    if file.transfer_grant is not None:
        from gen_worker.models.sources.grants import grant_location

        granted = grant_location(file.transfer_grant, is_optional=False)
        assert granted is not None, "it is not optional"
        return granted
    return Location(client.blob_url(file.blake3), tuple(client.connection.headers().items()))


def _is_here(path: str, file: SnapshotFile, cancel: CancelToken | None) -> bool:
    try:
        if os.path.islink(path) or os.stat(path).st_size != file.size_bytes:
            return False
        return hash_file(path, cancel) == file.blake3
    except OSError:
        return False
