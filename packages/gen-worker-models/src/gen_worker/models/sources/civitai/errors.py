"""How Civitai fails, with the codes its callers know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.models.fetch.errors import DigestMismatchError, SizeMismatchError
from gen_worker.models.net.errors import TooManyRedirectsError
from gen_worker.models.sources.errors import DownloadFailedError, ModelAccessError

if TYPE_CHECKING:
    from gen_worker.errors import ArtifactTransferError, ModelResolutionError

__all__ = ["CivitaiAccessError", "CivitaiError", "refusal_of"]

_DOWNLOADS: dict[type[Exception], str] = {
    SizeMismatchError: "source_download_size_mismatch",
    DigestMismatchError: "source_download_sha256_mismatch",
    TooManyRedirectsError: "source_download_too_many_redirects",
}


class CivitaiError(DownloadFailedError):
    """A model of Civitai could not be had; `code` says why."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status_code: int | None = None,
        retryable: bool = False,
        cause_type: str = "",
    ) -> None:
        super().__init__(
            message,
            provider="civitai",
            phase="resolve",
            status_code=status_code,
            retryable=retryable,
            cause_type=cause_type,
        )
        self.code = code


class CivitaiAccessError(ModelAccessError):
    """Civitai does not give the model to this caller."""

    code = "civitai_access_denied"


def refusal_of(
    ref: str, error: ArtifactTransferError, *, has_token: bool, while_fetching: bool
) -> ModelResolutionError:
    """Return what a failed request means, and what to do about it."""
    status = error.status_code
    if status in (401, 403):
        remedy = (
            "use a CIVITAI_API_KEY of an account that may" if has_token else ("set CIVITAI_API_KEY")
        )
        return CivitaiAccessError(
            f"Civitai refuses model {ref!r} with {status}: {remedy}",
            provider="civitai",
            status_code=status,
        )
    if status == 404:
        return CivitaiError(
            f"model {ref!r} is not on Civitai: check the id, which is the model's unless written "
            "'versions/<id>'",
            code="civitai_not_found",
            status_code=status,
        )
    code = _DOWNLOADS.get(type(error)) or (
        "civitai_download_failed" if while_fetching else "civitai_fetch_failed"
    )
    return CivitaiError(
        f"model {ref!r} of Civitai could not be fetched: {error.args[0]}",
        code=code,
        status_code=status,
        retryable=error.retryable,
        cause_type=type(error).__name__,
    )
