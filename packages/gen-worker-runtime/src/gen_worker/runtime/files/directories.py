"""Whole directories as inputs: the source of a job, or a dataset, as its hub has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.models.hub import HubClient
    from gen_worker.models.refs import TensorhubRef
    from gen_worker.runtime.files.requests import Request

__all__ = ["Wanted", "fetch_directory"]

_FOLDER = "directories"
_AXES = ("dtype", "file_layout", "file_type")
_BARE_ID_CHARS = 64


class Wanted(NamedTuple):
    """Which directory; see the `Directories` port."""

    ref: str
    checkpoint_id: str
    attributes: Mapping[str, Any]
    is_dataset: bool

    @property
    def is_numbered(self) -> bool:
        """Whether a number names a revision, as only those of datasets have."""
        return self.checkpoint_id.isdecimal() and len(self.checkpoint_id) < _BARE_ID_CHARS


def fetch_directory(request: Request, wanted: Wanted, cas_dir: str | None) -> str | None:
    """Bring a repository or a dataset here; return its directory, None when the hub has neither.

    The directory of a repository is named after its checkpoint. See the `Directories` port for
    what chooses it.

    Args:
        request: Who asks; a dataset stays here until it has ended.
        wanted: What is asked for.
        cas_dir: The content store that keeps datasets; see `FilePolicy`.

    Raises:
        ValidationError: Its ref is none, or the hub cannot choose by these attributes.
        AuthError: The job may not read it.
        ArtifactTransferError: It cannot be had.
        ResourceError: There is no room for it.
    """
    from gen_worker.models.hub import HubAuthError
    from gen_worker.models.refs import TensorhubRef, parse_prefixed_ref

    ref = parse_prefixed_ref(wanted.ref)
    if not isinstance(ref, TensorhubRef):
        raise ValidationError(
            f"{wanted.ref!r} is of no hub: import it with `gen_worker.clone`, or with "
            f"`gen-worker convert {wanted.ref} --out owner/repo:tag`, and name what that published"
        )
    if not request.scope.has_hub:
        return None
    refused: HubAuthError | None = None
    # Tokens name repositories, not datasets: either may be refused while the other is there.
    for is_dataset in (wanted.is_dataset, not wanted.is_dataset):
        try:
            if is_dataset:
                found = _dataset(request, ref, wanted, cas_dir)
            else:
                found = _repository(request, ref, wanted)
        except HubAuthError as error:
            refused, found = refused or error, None
        if found is not None:
            return found
    if refused is not None:
        raise refused
    return None


def _repository(request: Request, ref: TensorhubRef, wanted: Wanted) -> str | None:
    from gen_worker.models.hub import RepoNotFoundError, pull_folder

    if wanted.is_numbered:
        return None
    client, folder = request.client(), request.new_path(_FOLDER)
    try:
        pinned = _pinned(request, client, ref, wanted.checkpoint_id, wanted.attributes)
        place = os.path.join(folder, pinned.digest)
        return pull_folder(client, pinned, place, cancel=request.token).folder
    except RepoNotFoundError:
        return None


def _dataset(
    request: Request, ref: TensorhubRef, wanted: Wanted, cas_dir: str | None
) -> str | None:
    from gen_worker.runtime.files.datasets import find_snapshot, held_snapshot

    revision = wanted.checkpoint_id or ref.digest
    snapshot = find_snapshot(request.client(), ref, revision)
    return None if snapshot is None else held_snapshot(request, snapshot, cas_dir)


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
