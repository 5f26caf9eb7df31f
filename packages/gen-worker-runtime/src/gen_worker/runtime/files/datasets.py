"""Datasets of a hub: their files are in the content store, which keeps them from job to job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ArtifactTransferError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.fetch import FileToFetch
    from gen_worker.models.hub import HubClient
    from gen_worker.models.refs import TensorhubRef
    from gen_worker.models.snapshot import Snapshot, SnapshotFile
    from gen_worker.models.store import ContentStore
    from gen_worker.runtime.files.requests import Request

__all__ = ["find_snapshot", "held_snapshot"]

_ROUNDS = 3
"""A file may turn out damaged, or be removed by others; not again and again."""
_READ_ONLY = 0o444


def find_snapshot(client: HubClient, ref: TensorhubRef, revision: str) -> Snapshot | None:
    """Return the files of a revision of a dataset; None when there is no such dataset.

    Args:
        client: Of the hub.
        ref: Owner, name and tag.
        revision: Its number or digest; empty means what the tag says.

    Raises:
        NotOnHubError: It has no such revision or tag.
        ArtifactTransferError: The hub has no list of its files.
        ValidationError: A path of the list leads out of the dataset.
    """
    from gen_worker.models.hub import FileEntry
    from gen_worker.models.hub.wire import DATASET_FILES
    from gen_worker.models.snapshot import SnapshotFile, parse_blake3, snapshot_of

    found = client.find_dataset(
        ref.owner, ref.repo, revision=revision, tag="" if revision else ref.tag
    )
    if found is None:
        return None
    try:
        schema: Any = found.get("schema") or {}
        entries = msgspec.convert(schema.get(DATASET_FILES) or (), tuple[FileEntry, ...])
    except (msgspec.ValidationError, AttributeError) as error:
        raise _without_files(ref) from error
    if not entries:
        raise _without_files(ref)
    return snapshot_of(
        SnapshotFile(
            path=entry.path, size_bytes=entry.size_bytes, blake3=parse_blake3(entry.digest)
        )
        for entry in entries
    )


def held_snapshot(request: Request, snapshot: Snapshot, cas_dir: str | None) -> str:
    """Have the files of a dataset here until a request has ended, and return their directory.

    What is here already is read again: a file that is damaged is fetched once more.

    Raises:
        ArtifactTransferError: A file could not be fetched.
        ResourceError: There is no room.
    """
    from gen_worker.models.assembly import open_store
    from gen_worker.models.store import DamagedBlobError, MissingBlobsError

    store = open_store(cas_dir)
    with store.reserve(snapshot, token=request.token):
        for _ in range(_ROUNDS):
            missing = store.missing(snapshot)
            _fetch(request, store, missing)
            try:
                store.build(snapshot, token=request.token)
            except (MissingBlobsError, DamagedBlobError):
                continue
            folder = request.keep(store.lease(snapshot.digest))
            is_new = {file.blake3 for file in missing} == {file.blake3 for file in snapshot.files}
            if is_new or not store.verify(snapshot.digest, token=request.token):
                return folder
    raise ArtifactTransferError(
        f"the content store {store.root!r} does not keep the files of a dataset as they are "
        "written: check its disk",
        phase="verify",
    )


def _fetch(request: Request, store: ContentStore, files: Sequence[SnapshotFile]) -> None:
    import os
    from contextlib import suppress

    from gen_worker.models.fetch import Fetcher
    from gen_worker.models.net import Opener

    if not files:
        return
    opener = Opener(trusted=(request.scope.base_url,))
    try:
        wanted = [_to_fetch(request.client(), store, file) for file in files]
        Fetcher(opener).fetch(wanted, token=request.token)
    finally:
        opener.close()
    for file in files:
        with suppress(FileNotFoundError):  # verified on arrival: not to be hashed again
            os.chmod(store.blob_path(file.blake3), _READ_ONLY)


def _to_fetch(client: HubClient, store: ContentStore, file: SnapshotFile) -> FileToFetch:
    from gen_worker.models.fetch import FileToFetch, Location

    headers = tuple(client.connection.headers().items())
    return FileToFetch(
        destination=store.blob_path(file.blake3),
        locations=(Location(client.blob_url(file.blake3), headers),),
        size_bytes=file.size_bytes,
        digest=f"blake3:{file.blake3}",
        chunk_hashes=lambda: client.chunk_hashes(file.blake3),
    )


def _without_files(ref: TensorhubRef) -> ArtifactTransferError:
    return ArtifactTransferError(
        f"dataset '{ref.owner}/{ref.repo}' has no list of files on the hub: publish it again",
        phase="resolve",
    )
