"""Doing something over a network until it works, or is not worth another try."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.fetch import Backoff, RetryLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken

__all__ = ["CALLBACK_TRIES", "UPLOAD_TRIES", "persistently"]

T = TypeVar("T")

CALLBACK_TRIES = RetryLimits(
    factor_s=1.0, cap_s=10.0, max_tries=6, max_elapsed_s=300.0, max_retry_after_s=60.0
)
UPLOAD_TRIES = RetryLimits(
    factor_s=2.0, cap_s=30.0, max_tries=8, max_elapsed_s=1800.0, max_retry_after_s=120.0
)
"""Of one file; each is several requests, which the hub's client tries again by itself."""


def persistently(once: Callable[[], T], limits: RetryLimits, cancel: CancelToken) -> T:
    """Return what works at last.

    Raises:
        ArtifactTransferError: The last failure, or the first that stays whatever one does.
        CanceledError: Nobody waits for it any more.
    """
    backoff = Backoff(limits)
    while True:
        try:
            return once()
        except ArtifactTransferError as error:
            is_passing = error.retryable or (error.status_code or 0) >= 500
            asked_s = getattr(error, "retry_after_s", None)
            wait_s = backoff.next_wait_s(asked_s) if is_passing else None
            if wait_s is None:
                raise
        if cancel.wait(wait_s):
            raise cancel.error()
