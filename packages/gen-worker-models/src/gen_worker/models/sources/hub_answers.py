"""Asking the hub what a ref means, and what to make of each answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import ModelResolutionError
from gen_worker.models.hub.errors import HubAuthError, NotOnHubError, PublicModelError
from gen_worker.models.refs import DEFAULT_TAG, TensorhubRef, identity
from gen_worker.models.sources.errors import ModelAccessError
from gen_worker.models.sources.precisions import short_precision

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken
    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.hub.wire import Resolution
    from gen_worker.models.snapshot import Snapshot

__all__ = ["HubAnswers", "HubRights"]


class HubRights(NamedTuple):
    """What this worker may ask its hub for."""

    may_resolve: bool = True
    may_ingest: bool = False
    """Have the hub get hold of public models it lacks."""


class HubAnswers:
    """Resolves refs with a hub that is configured. Thread-safe."""

    def __init__(self, hub: HubClient, rights: HubRights) -> None:
        self.hub = hub
        self.rights = rights

    def ask(self, choice: ModelChoice, token: CancelToken) -> Resolution:
        """Return what a ref of the hub means; a public model it lacks is asked for.

        Raises:
            ModelAccessError: The hub refuses.
            ModelResolutionError: There is no such model, or this worker may not ask for it.
            ArtifactTransferError: The hub cannot be reached; `retryable`.
        """
        ref = choice.target
        assert isinstance(ref, TensorhubRef), "the provider's own"
        if not self.rights.may_resolve:
            return self._without_resolving(choice, token)
        try:
            return self.hub.resolve(
                ref, attributes=choice.attributes or None, for_inference=True, cancel=token
            )
        except NotOnHubError as error:
            if error.code != "repo_not_found" or not self.rights.may_ingest or ref.digest:
                raise _not_there(ref, error) from error
            return self._ingested(choice, error, token)
        except HubAuthError as error:
            raise _refused(str(ref), error) from error

    def ask_public(self, choice: ModelChoice, token: CancelToken) -> Resolution:
        """Have the hub get hold of a public model of another provider.

        Raises:
            ModelResolutionError: It does not provide it.
            ArtifactTransferError: It cannot be reached.
        """
        given = choice.attributes
        dtypes = given.get("dtype") or ((choice.dtype,) if choice.dtype else ())
        try:
            return self.hub.request_public(
                _public_ref(choice),
                dtypes=[short_precision(dtype) for dtype in dtypes],
                file_types=given.get("file_type", ()),
                file_layouts=given.get("file_layout", ()),
                cancel=token,
            )
        except HubAuthError as error:
            raise _refused(str(choice.target), error) from error

    def again(self, ref: TensorhubRef, digest: str, token: CancelToken) -> Snapshot | None:
        """Return a snapshot with fresh URLs; None when this worker may not ask."""
        if not self.rights.may_resolve:
            return None
        pinned = TensorhubRef(owner=ref.owner, repo=ref.repo, digest=f"blake3:{digest}")
        try:
            return self.hub.resolve(pinned, for_inference=True, cancel=token).snapshot
        except HubAuthError as error:
            raise _refused(str(ref), error) from error

    def _without_resolving(self, choice: ModelChoice, token: CancelToken) -> Resolution:
        ref = choice.target
        if self.rights.may_ingest and isinstance(ref, TensorhubRef) and not ref.digest:
            return self.ask_public(choice, token)
        raise ModelResolutionError(
            f"model {str(ref)!r} is not described by the job (its `resolved_repos_by_id` has no "
            "entry for it), and this worker may not ask the hub itself: have the orchestrator send "
            "the entry, or set WORKER_ALLOW_TENSORHUB_API_RESOLVE=1",
            provider="tensorhub",
            phase="resolve",
        )

    def _ingested(
        self, choice: ModelChoice, missing: NotOnHubError, token: CancelToken
    ) -> Resolution:
        try:
            return self.ask_public(choice, token)
        except PublicModelError as error:
            raise ModelResolutionError(
                f"model {str(choice.target)!r} is not on the hub, and it does not provide it as a "
                f"public model either ({error}): check the name, or publish it with "
                "`gen-worker hub push`",
                provider="tensorhub",
                phase="ingest",
                status_code=error.status_code,
            ) from missing


def _public_ref(choice: ModelChoice) -> str:
    """Return a ref as the hub reads those of public models: `hf:owner/repo`, or its own."""
    ref = choice.target
    if not isinstance(ref, TensorhubRef):
        return identity(ref)
    is_plain = ref.tag == DEFAULT_TAG and not ref.flavor
    return ref.repository if is_plain else str(ref)


def _not_there(ref: TensorhubRef, error: NotOnHubError) -> ModelResolutionError:
    """Return an error of the same class that says what to do."""
    missing = {
        "tag_not_found": f"no tag {ref.tag!r}",
        "flavor_not_found": f"no flavor {ref.flavor!r}",
        "checkpoint_not_found": f"no checkpoint {ref.digest!r}",
    }.get(error.code, f"no repository '{ref.owner}/{ref.repo}'")
    has = f", only {', '.join(map(repr, error.available[:20]))}" if error.available else ""
    return type(error)(
        f"model {str(ref)!r} is not on the hub, which has {missing}{has}: check the ref, or "
        "publish it with `gen-worker hub push`",
        available=error.available,
    )


def _refused(ref: str, error: HubAuthError) -> ModelAccessError:
    remedy = (
        "set TENSORHUB_TOKEN to a token that may read it"
        if error.status_code == 403
        else "set TENSORHUB_TOKEN"
    )
    return ModelAccessError(
        f"the hub refuses model {ref!r} with {error.status_code}: {remedy}",
        provider="tensorhub",
        status_code=error.status_code,
    )
