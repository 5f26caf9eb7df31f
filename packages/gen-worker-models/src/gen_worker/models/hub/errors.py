"""What the hub's answers mean, as errors that carry data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    ModelResolutionError,
    ValidationError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "BudgetExceededError",
    "CheckpointNotFoundError",
    "FlavorNotFoundError",
    "HubAuthError",
    "HubRequestError",
    "HubUnreachableError",
    "IngestTimeoutError",
    "MalformedAnswerError",
    "NoCompatibleArtifactError",
    "NotOnHubError",
    "PublicModelError",
    "RepoNotFoundError",
    "TagNotFoundError",
]

PROVIDER = "tensorhub"


class HubAuthError(AuthError):
    """The hub refused the token: 401 without a valid one, 403 when it does not allow this."""

    def __init__(self, message: str, *, status_code: int, code: str = "") -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code


class HubRequestError(ArtifactTransferError):
    """The hub refused a request; `code` is its own word for why."""

    def __init__(
        self, message: str, *, phase: str, status_code: int, code: str = "", retryable: bool = False
    ) -> None:
        super().__init__(
            message,
            provider=PROVIDER,
            phase=phase,
            retryable=retryable,
            status_code=status_code,
        )
        self.code = code


class HubUnreachableError(ArtifactTransferError):
    """No answer: the hub is not there, or the connection broke."""

    def __init__(self, message: str, *, phase: str, cause_type: str) -> None:
        super().__init__(
            message, provider=PROVIDER, phase=phase, retryable=True, cause_type=cause_type
        )


class BudgetExceededError(ValidationError):
    """A file is larger than the token allows, in bytes."""

    def __init__(self, message: str, *, size_bytes: int, max_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes
        self.max_bytes = max_bytes


class MalformedAnswerError(ModelResolutionError, ValueError):
    """The hub answered something that is no description of a model."""

    def __init__(self, message: str) -> None:
        super().__init__(message, provider=PROVIDER, phase="resolve")


class NotOnHubError(ModelResolutionError, LookupError):
    """A part of a ref does not exist on the hub.

    `override_code` is what the refusal of a caller's override is called, and `available` what the
    hub has instead, when it says so.
    """

    code = "not_found"
    override_code = "override_ref_not_found"

    def __init__(self, message: str, *, available: Sequence[str] = ()) -> None:
        super().__init__(message, provider=PROVIDER, phase="resolve", status_code=404)
        self.available = tuple(available)


class RepoNotFoundError(NotOnHubError):
    """There is no such repository."""

    code = "repo_not_found"


class TagNotFoundError(NotOnHubError):
    """The repository has no such tag; `available` are those it has."""

    code = "tag_not_found"
    override_code = "override_tag_not_found"


class FlavorNotFoundError(NotOnHubError):
    """What the tag points to has no such flavor; `available` are those it has."""

    code = "flavor_not_found"
    override_code = "override_flavor_not_found"


class CheckpointNotFoundError(NotOnHubError):
    """The repository has no checkpoint of this digest."""

    code = "checkpoint_not_found"


class NoCompatibleArtifactError(ModelResolutionError):
    """The model exists, but not in a form that was asked for; `debug` is the hub's account."""

    def __init__(self, message: str, *, debug: Any = None) -> None:
        super().__init__(message, provider=PROVIDER, phase="resolve", status_code=409)
        self.debug = debug


class PublicModelError(ModelResolutionError):
    """The hub does not provide a public model."""

    def __init__(self, message: str, *, status_code: int, code: str = "") -> None:
        super().__init__(message, provider=PROVIDER, phase="ingest", status_code=status_code)
        self.code = code


class IngestTimeoutError(ModelResolutionError, TimeoutError):
    """The hub did not get hold of a public model in time; `job_id` is its own name of the task."""

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(message, provider=PROVIDER, phase="ingest", retryable=True)
        self.job_id = job_id


_NOT_FOUND: Mapping[str, type[NotOnHubError]] = {
    cls.code: cls
    for cls in (RepoNotFoundError, TagNotFoundError, FlavorNotFoundError, CheckpointNotFoundError)
}


def not_found(code: str, message: str, available: Sequence[str] = ()) -> NotOnHubError:
    """Return the error for a code of the hub; an unknown one means the repository."""
    return _NOT_FOUND.get(code, RepoNotFoundError)(message, available=available)
