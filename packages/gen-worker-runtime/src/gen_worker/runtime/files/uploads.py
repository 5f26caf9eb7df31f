"""Uploads of finished files: tried until they work, going on where the last try ended."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gen_worker.errors import ArtifactTransferError, AuthError
from gen_worker.types import Asset, Tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub import Revision, Uploaded
    from gen_worker.models.hub.uploading import FileFacts
    from gen_worker.ports import SaveOptions
    from gen_worker.runtime.files.limits import FilePolicy
    from gen_worker.runtime.files.requests import Request

    Tell = Callable[[str, dict[str, Any]], object]

__all__ = ["Finished", "no_hub", "open_revision", "persistently", "put", "record_of", "upload"]

T = TypeVar("T")

_MAX_PAUSE_S = 20.0


class Finished(NamedTuple):
    """A file that is ready to be sent."""

    facts: FileFacts
    mime_type: str | None
    sha256: str = ""
    """Empty when nobody computed it; the hub may tell."""


def upload(
    request: Request,
    ref: str,
    file: Finished,
    options: SaveOptions,
    *,
    policy: FilePolicy,
    tell: Tell,
) -> Uploaded:
    """Send a file to the job's hub: a checkpoint of a job with a destination to its revision.

    Raises:
        AuthError: The hub refuses the token.
        RuntimeError: A training's checkpoint has no destination.
        ArtifactTransferError: It did not work, however often it was tried.
        CanceledError: The request was canceled.
    """
    revision = _revision_for(request, options)
    if revision is not None:
        return put(request, revision, ref, file, policy=policy, tell=tell)
    scope = request.scope

    def once() -> Uploaded:
        return request.client().upload_media(
            file.facts.path,
            ref,
            owner=scope.owner,
            content_type=file.mime_type or "",
            request_id=request.id,
            job_id=scope.job,
            facts=file.facts,
            tell=request.tell,
            cancel=request.token,
        )

    return _followed(request, ref, tell, lambda: persistently(once, policy, request.token))


def put(
    request: Request,
    revision: Revision,
    ref: str,
    file: Finished,
    *,
    policy: FilePolicy,
    tell: Tell,
) -> Uploaded:
    """Send a file to a revision; the errors of `upload`."""

    def once() -> Uploaded:
        return revision.upload(
            file.facts.path, ref, content_type=file.mime_type or "", facts=file.facts
        )

    sent = _followed(request, ref, tell, lambda: persistently(once, policy, request.token))
    request.uploaded_to(revision)[ref] = sent
    return sent


def _followed(request: Request, ref: str, tell: Tell, send: Callable[[], Uploaded]) -> Uploaded:
    request.followers[ref] = tell
    try:
        return send()
    finally:
        request.followers.pop(ref, None)


def persistently(
    once: Callable[[], T],
    policy: FilePolicy,
    token: CancelToken,
    *,
    uniform: Callable[[float, float], float] = random.uniform,
) -> T:
    """Do something with the hub until it works, as often as the policy says."""
    for failures in range(1, policy.upload_tries + 1):
        try:
            return once()
        except ArtifactTransferError as error:
            if not error.retryable or failures == policy.upload_tries:
                raise
        longest_s = min(_MAX_PAUSE_S, policy.upload_backoff_s * 2.0 ** (failures - 1))
        if token.wait(uniform(longest_s / 2, longest_s)):
            raise token.error()
    raise AssertionError("the last try returns or raises")


def open_revision(request: Request, destination: str, spec: Mapping[str, Any]) -> Revision:
    """Return the request's open revision of `owner/repo`, which is begun when there is none."""
    with request.publishing:
        known = request.revisions.get(destination.lower())
        if known is not None and not known.is_closed:
            return known
        owner, _, repo = destination.partition("/")
        revision = request.client().open_revision(
            owner,
            repo,
            request_id=request.id,
            tell=request.tell,
            cancel=request.token,
            **{"job_id": request.scope.job, **spec},
        )
        request.revisions[destination.lower()] = revision
        return revision


def record_of(
    uploaded: Uploaded, file: Finished, owner: str, options: SaveOptions
) -> Asset | Tensors:
    """Return what an author gets for a file that the hub has."""
    sha256 = uploaded.sha256 or file.sha256 or None
    if options.checkpoint_format is not None:
        return Tensors(
            ref=uploaded.ref,
            owner=owner or None,
            format=options.checkpoint_format,
            size_bytes=uploaded.size_bytes,
            sha256=sha256,
            blake3=uploaded.blake3,
            blob_digest=uploaded.blob_digest or None,
            blob_domain=uploaded.blob_domain or None,
            blob_path=uploaded.blob_path or None,
            snapshot_digest=uploaded.snapshot_digest or None,
        )
    return Asset(
        ref=uploaded.ref,
        owner=owner or None,
        mime_type=file.mime_type or uploaded.mime_type or None,
        size_bytes=uploaded.size_bytes,
        sha256=sha256,
        blake3=uploaded.blake3,
        media_id=uploaded.media_id or None,
    )


def _revision_for(request: Request, options: SaveOptions) -> Revision | None:
    if options.checkpoint_format is None:
        return None
    destination = options.destination or request.scope.destination
    if destination:
        return open_revision(request, destination, options.repo_spec or {})
    if (options.metadata or {}).get("produced_by_kind") == "training":
        raise RuntimeError(
            "tensor upload requires repo job scope: a training's checkpoints need a "
            "destination_repo and a job_id"
        )
    return None


def no_hub() -> AuthError:
    """Return what is wrong with storing an output where there is no place for it."""
    return AuthError(
        "the output cannot be stored: the request names no hub with a token, and this worker has "
        "none of its own: set FILE_API_BASE_URL and WORKER_CAPABILITY_TOKEN"
    )
