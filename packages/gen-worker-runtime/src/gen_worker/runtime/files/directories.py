"""Whole directories as inputs: the source of a job, or a dataset, as its hub has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ArtifactTransferError
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from gen_worker.models.hub import FileEntry, HubClient
    from gen_worker.models.refs import TensorhubRef
    from gen_worker.runtime.files.requests import Request

__all__ = ["fetch_directory"]

_FOLDER = "directories"
_MANIFEST = "__cozy_snapshot_manifest__"


def fetch_directory(request: Request, ref: str) -> str | None:
    """Bring a repository or a dataset here; return its directory, None when the hub has neither.

    Raises:
        ValidationError: `ref` is none.
        AuthError: The job may not read it.
        ArtifactTransferError: It cannot be had.
    """
    from gen_worker.models.hub import HubAuthError, RepoNotFoundError, pull_folder
    from gen_worker.models.refs import TensorhubRef, parse_ref

    parsed = parse_ref(ref)
    if not request.scope.has_hub or not isinstance(parsed, TensorhubRef):
        return None
    client, folder = request.client(), request.new_path(_FOLDER)
    try:
        return pull_folder(client, parsed, folder, cancel=request.token).folder
    except (RepoNotFoundError, HubAuthError) as error:  # tokens name no datasets
        if _fetch_dataset(request, client, parsed, folder):
            return folder
        if isinstance(error, HubAuthError):
            raise
        return None


def _fetch_dataset(request: Request, client: HubClient, ref: TensorhubRef, folder: str) -> bool:
    from gen_worker.models.fetch import Fetcher, FileToFetch, Location
    from gen_worker.models.net import Opener

    entries = _entries(client.find_dataset(ref.owner, ref.repo))
    headers = tuple(client.connection.headers().items())
    files = [
        FileToFetch(
            destination=safe_join(folder, entry.path),
            locations=(Location(client.blob_url(entry.digest), headers),),
            size_bytes=entry.size_bytes,
            digest=entry.digest,
        )
        for entry in entries
    ]
    opener = Opener(trusted=(request.scope.base_url,))
    try:
        Fetcher(opener, durable=False).fetch(files, token=request.token)
    finally:
        opener.close()
    return bool(files)


def _entries(dataset: dict[str, Any] | None) -> tuple[FileEntry, ...]:
    """Return the files of a dataset; none when there is no dataset, or no list of its files."""
    from gen_worker.models.hub import FileEntry

    schema = (dataset or {}).get("schema") or {}
    try:
        return msgspec.convert(schema.get(_MANIFEST) or (), tuple[FileEntry, ...])
    except (msgspec.ValidationError, AttributeError) as error:
        raise ArtifactTransferError(
            f"the hub's dataset has no list of files: {error}", phase="resolve"
        ) from error
