"""Whole directories as inputs: the source of a job, or a dataset, as its hub has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ArtifactTransferError, ValidationError
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.models.hub import FileEntry, HubClient
    from gen_worker.models.refs import TensorhubRef
    from gen_worker.runtime.files.requests import Request

__all__ = ["fetch_directory"]

_FOLDER = "directories"
_MANIFEST = "__cozy_snapshot_manifest__"
_AXES = ("dtype", "file_layout", "file_type")
_BARE_ID_CHARS = 64


def fetch_directory(
    request: Request, ref: str, checkpoint_id: str, attributes: Mapping[str, Any]
) -> str | None:
    """Bring a repository or a dataset here; return its directory, None when the hub has neither.

    The directory of a repository is named after its checkpoint. See the `Directories` port for
    what chooses it.

    Raises:
        ValidationError: `ref` is none, or the hub cannot choose by these attributes.
        AuthError: The job may not read it.
        ArtifactTransferError: It cannot be had.
    """
    from gen_worker.models.hub import HubAuthError, RepoNotFoundError, pull_folder
    from gen_worker.models.refs import TensorhubRef, parse_ref

    parsed = parse_ref(ref)
    if not request.scope.has_hub or not isinstance(parsed, TensorhubRef):
        return None
    client, folder = request.client(), request.new_path(_FOLDER)
    if checkpoint_id.isdecimal() and len(checkpoint_id) < _BARE_ID_CHARS:  # only datasets count
        return folder if _fetch_dataset(request, client, parsed, folder, checkpoint_id) else None
    try:
        pinned = _pinned(request, client, parsed, checkpoint_id, attributes)
        return pull_folder(
            client, pinned, os.path.join(folder, pinned.digest), cancel=request.token
        ).folder
    except (RepoNotFoundError, HubAuthError) as error:  # tokens name no datasets
        if _fetch_dataset(request, client, parsed, folder, checkpoint_id):
            return folder
        if isinstance(error, HubAuthError):
            raise
        return None


def _pinned(
    request: Request,
    client: HubClient,
    ref: TensorhubRef,
    checkpoint_id: str,
    attributes: Mapping[str, Any],
) -> TensorhubRef:
    """Ask the hub which checkpoint is meant: by its id, else by ref, else by attributes.

    Raises:
        ValidationError: It has not the attributes that were asked for, or the hub knows no such.
    """
    from gen_worker.models.refs import TensorhubRef

    unknown = sorted(set(attributes) - set(_AXES))
    if unknown:
        raise ValidationError(
            f"source.attributes {unknown} choose nothing: the hub knows {', '.join(_AXES)}; name "
            "the flavor in source.ref, as in 'owner/repo#flavor'"
        )
    if checkpoint_id:
        bare = len(checkpoint_id) == _BARE_ID_CHARS
        digest = f"blake3:{checkpoint_id}" if bare else checkpoint_id
        ref = TensorhubRef(owner=ref.owner, repo=ref.repo, flavor=ref.flavor, digest=digest)
    chosen = {name: [str(value)] for name, value in attributes.items()}
    found = client.resolve(ref, attributes=chosen or None, cancel=request.token)
    for name in ("file_layout", "file_type"):
        told = getattr(found.artifact, name)
        if told and name in attributes and told != attributes[name]:
            raise ValidationError(
                f"source {str(ref)!r} has the {name} {told!r}, not {attributes[name]!r} as "
                "source.attributes say: change either"
            )
    return TensorhubRef(owner=ref.owner, repo=ref.repo, digest=found.snapshot.checkpoint_id)


def _fetch_dataset(
    request: Request, client: HubClient, ref: TensorhubRef, folder: str, revision: str
) -> bool:
    from gen_worker.models.fetch import Fetcher, FileToFetch, Location
    from gen_worker.models.net import Opener

    entries = _entries(client.find_dataset(ref.owner, ref.repo, revision=revision))
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
