"""Sending a file with an S3 library, for hubs that hand out credentials instead of URLs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.hub.errors import PROVIDER

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken
    from gen_worker.models.hub.clock import Clock
    from gen_worker.models.hub.progress import UploadProgress
    from gen_worker.models.hub.uploading import FileFacts
    from gen_worker.models.hub.wire import TransferGrant

__all__ = ["s3_client", "send_with_grant"]

_PART_BYTES = 64 * 1024 * 1024
_THREADS = (10, 5, 1, 1)
"""Of each attempt: what fails with many at once often works with few."""
_MAX_PAUSE_S = 4.0

_process_files = threading.BoundedSemaphore(2)


def send_with_grant(
    grant: TransferGrant,
    facts: FileFacts,
    *,
    progress: UploadProgress,
    clock: Clock,
    cancel: CancelToken | None,
) -> None:
    """Put a file where the grant says.

    Raises:
        ArtifactTransferError: It failed four times, or boto3 is not installed.
    """
    errors = _library_errors()
    with _process_files:
        for attempt, threads in enumerate(_THREADS):
            if cancel is not None:
                cancel.raise_if_canceled()
            sent = _Sent(progress, cancel)
            try:
                _upload(grant, facts, threads, sent)
            except errors as error:
                sent.take_back()
                if cancel is not None:
                    cancel.raise_if_canceled()
                if attempt == len(_THREADS) - 1:
                    raise ArtifactTransferError(
                        "the object store did not take the file",
                        provider=PROVIDER,
                        phase="sdk_upload",
                        retryable=True,
                        cause_type=type(error).__name__,
                    ) from error
                clock.sleep(min(2.0**attempt, _MAX_PAUSE_S), cancel)
            else:
                progress.add_part()
                return


def s3_client(grant: TransferGrant) -> Any:
    """Return a client for the grant's object: path-style, SigV4, checksums only when required.

    Raises:
        ArtifactTransferError: boto3 is not installed.
    """
    _library_errors()
    import boto3  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from botocore.config import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        Config,
    )

    return boto3.session.Session().client(
        "s3",
        endpoint_url=grant.endpoint_url,
        region_name=grant.region,
        aws_access_key_id=grant.access_key_id,
        aws_secret_access_key=grant.secret_access_key,
        aws_session_token=grant.session_token or None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "max_attempts": 10},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _upload(grant: TransferGrant, facts: FileFacts, threads: int, sent: _Sent) -> None:
    from boto3.s3.transfer import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        TransferConfig,
    )

    client = s3_client(grant)  # a new one each time: one that is broken must not fail the next too
    try:
        client.upload_file(
            facts.path,
            grant.bucket,
            grant.key,
            Config=TransferConfig(
                multipart_threshold=_PART_BYTES,
                multipart_chunksize=_PART_BYTES,
                max_concurrency=threads,
            ),
            Callback=sent,
        )
    finally:
        client.close()


class _Sent:
    """Counts bytes for the library; it cannot be told to stop, but its callback may raise."""

    def __init__(self, progress: UploadProgress, cancel: CancelToken | None) -> None:
        self._progress = progress
        self._cancel = cancel
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        if self._cancel is not None:
            self._cancel.raise_if_canceled()
        with self._lock:
            self._count += count
        self._progress.add(count)

    def take_back(self) -> None:
        self._progress.add(-self._count)
        self._count = 0


def _library_errors() -> tuple[type[Exception], ...]:
    try:
        from boto3.exceptions import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            Boto3Error,
        )
        from botocore.exceptions import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            BotoCoreError,
            ClientError,
        )
    except ImportError as error:
        raise ArtifactTransferError(
            'the hub wants the file sent with an S3 library: install "gen-worker[s3]"',
            provider=PROVIDER,
            phase="grant",
        ) from error
    return (Boto3Error, BotoCoreError, ClientError, OSError)
