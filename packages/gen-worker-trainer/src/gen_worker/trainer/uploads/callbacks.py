"""Word of what happens in a run, as JSON to the URLs of whoever started it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ArtifactTransferError, AuthError
from gen_worker.models.net import HttpStatusError, Opener
from gen_worker.trainer.errors import ArtifactUploadError
from gen_worker.trainer.uploads.retrying import CALLBACK_TRIES, persistently

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.models.fetch import RetryLimits
    from gen_worker.models.hub import Uploaded
    from gen_worker.trainer.job_file import UploadUrls
    from gen_worker.trainer.uploads.artifacts import CheckpointFiles

__all__ = ["Callbacks", "checkpoint_body", "sample_body"]

TIMEOUT_S = 30.0

_encode = msgspec.json.Encoder(order="sorted").encode


class Callbacks:
    """Posts. Thread-safe, blocking."""

    def __init__(
        self,
        urls: UploadUrls,
        *,
        request_id: str,
        token: str,
        tries: RetryLimits = CALLBACK_TRIES,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Bind; nothing is sent yet.

        Args:
            urls: By kind; an empty one is told nothing.
            request_id: Of the job.
            token: Sent as a bearer; empty without one.
            tries: Of each callback.
            timeout_s: Of each try.

        Raises:
            UrlRefusedError: One is no URL of http or https.
        """
        self._urls = {
            "metrics": urls.metrics_url,
            "checkpoint": urls.checkpoint_url,
            "sample": urls.sample_url,
            "terminal": urls.terminal_url,
        }
        self._request_id = request_id
        self._headers = [("content-type", "application/json")]
        if token:
            self._headers.append(("authorization", f"Bearer {token}"))
        self._tries = tries
        self._timeout_s = timeout_s
        # Where the one is who started the job is not for this worker to judge; he does not move.
        self._opener = Opener(
            trusted=[url for url in self._urls.values() if url],
            connect_timeout_s=timeout_s,
            read_timeout_s=timeout_s,
            max_redirects=0,
        )

    def close(self) -> None:
        self._opener.close()

    def wants(self, kind: str) -> bool:
        """Tell whether anybody is told of this kind."""
        return bool(self._urls[kind])

    def post(self, kind: str, step: int, facts: Mapping[str, Any], cancel: CancelToken) -> None:
        """Tell of something, until it is taken in.

        Raises:
            AuthError: The token is refused.
            ArtifactUploadError: Nobody took it in.
            CanceledError: It is not waited for any more.
        """
        url = self._urls[kind]
        if not url:
            return
        body = _encode({"request_id": self._request_id, "kind": kind, "step": step, **facts})
        # A try that was taken in, and whose answer was lost, can be told from a second callback.
        headers = [*self._headers, ("idempotency-key", os.urandom(16).hex())]
        try:
            persistently(lambda: self._once(url, body, headers, cancel), self._tries, cancel)
        except HttpStatusError as error:
            if error.status_code in (401, 403):
                raise AuthError(
                    f"the {kind} callback refuses the token with {error.status_code}"
                ) from error
            raise _failed(kind, step, error) from error
        except ArtifactTransferError as error:
            raise _failed(kind, step, error) from error

    def _once(
        self, url: str, body: bytes, headers: list[tuple[str, str]], cancel: CancelToken
    ) -> None:
        with self._opener.open(
            url,
            method="POST",
            headers=headers,
            body=body,
            token=cancel,
            within_s=self._timeout_s,
        ) as response:
            if not 200 <= response.status < 300:
                raise ArtifactUploadError(
                    f"it was answered with {response.status}", status_code=response.status
                )


def checkpoint_body(files: CheckpointFiles, sent: Uploaded | None) -> dict[str, Any]:
    """Return what is told of a checkpoint."""
    return {
        "local_path": files.local_path,
        "size_bytes": files.size_bytes,
        "final": files.is_final,
        "file_ref": sent.ref if sent else "",
        "sha256": sent.sha256 if sent else "",
        "blob_digest": sent.blob_digest if sent else "",
        "snapshot_digest": sent.snapshot_digest if sent else "",
        "uploaded_size_bytes": sent.size_bytes if sent else 0,
    }


def sample_body(local_path: str, sent: Uploaded | None) -> dict[str, Any]:
    """Return what is told of a sample."""
    return {
        "local_path": local_path,
        "size_bytes": os.stat(local_path).st_size if os.path.isfile(local_path) else 0,
        "file_ref": sent.ref if sent else "",
        "sha256": sent.sha256 if sent else "",
        "uploaded_size_bytes": sent.size_bytes if sent else 0,
    }


def _failed(kind: str, step: int, error: ArtifactTransferError) -> ArtifactUploadError:
    return ArtifactUploadError(
        f"the {kind} callback of step {step} was not taken in: {error.args[0]}",
        phase="callback",
        retryable=error.retryable,
        status_code=error.status_code,
        cause_type=type(error).__name__,
    )
