"""How finding a model fails, as data."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from gen_worker.errors import ArtifactTransferError, AuthError, ModelResolutionError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DownloadFailedError",
    "ModelAccessError",
    "OfflineMissError",
    "UnsupportedProviderError",
    "naming",
]


class ModelAccessError(ModelResolutionError, AuthError):
    """The provider has the model, or hides that it has, but does not give it to this caller."""

    def __init__(self, message: str, *, provider: str, status_code: int | None = None) -> None:
        super().__init__(message, provider=provider, phase="resolve", status_code=status_code)


class OfflineMissError(ModelResolutionError, FileNotFoundError):
    """The model is not on this machine, and nothing may be fetched."""

    def __init__(self, message: str, *, ref: str, provider: str) -> None:
        super().__init__(message, provider=provider, phase="lookup")
        self.ref = ref


class UnsupportedProviderError(ModelResolutionError):
    """Models of this provider are not loaded."""

    def __init__(self, message: str, *, provider: str) -> None:
        super().__init__(message, provider=provider, phase="resolve")


class DownloadFailedError(ModelResolutionError):
    """The model is there, but its files did not arrive; the cause says why."""


@contextmanager
def naming(ref: str, provider: str) -> Iterator[None]:
    """Have what fails while a model's files are fetched say which model it was."""
    try:
        yield
    except ModelResolutionError:
        raise
    except ArtifactTransferError as error:
        remedy = (
            "what is here already is kept: try again" if error.retryable else "check the source"
        )
        raise DownloadFailedError(
            f"the files of model {ref!r} could not be fetched: {error.args[0]}; {remedy}",
            provider=provider,
            phase="download",
            retryable=error.retryable,
            status_code=error.status_code,
            cause_type=type(error).__name__,
        ) from error
