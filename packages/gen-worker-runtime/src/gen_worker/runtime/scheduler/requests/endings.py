"""How requests end that no worker has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.errors import CanceledError, DeadlineExceededError, classify
from gen_worker.runtime.scheduler.values import Ending

if TYPE_CHECKING:
    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.runtime.scheduler.values import RequestRecord

__all__ = ["canceled_ending", "failed_ending"]

_WORDS: dict[CancelReason, str] = {
    "caller": "the request was canceled by its caller",
    "disconnect": "the request was canceled: its caller went away",
    "shutdown": "the request was canceled: the scheduler is being shut down",
    "interrupt": "the request was canceled",
}


def canceled_ending(record: RequestRecord, reason: CancelReason) -> Ending:
    """Return how a request ends that is stopped."""
    error: CanceledError
    if reason == "deadline":
        allowed_s = (record.deadline_at or record.created_at) - record.created_at
        error = DeadlineExceededError(
            f"the request had not ended {allowed_s:.3g} s after it was submitted: give it more time"
        )
    else:
        error = CanceledError(_WORDS[reason])
    return failed_ending(classify(error))


def failed_ending(failure: Failure, *, attempt: int = 0) -> Ending:
    """Return how a request ends that fails."""
    status = "canceled" if failure.error_type == "canceled" else "failed"
    return Ending(status=status, failure=failure, attempt=attempt)  # type: ignore[arg-type]
