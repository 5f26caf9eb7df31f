"""The status of a failure, and the words for what never became a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.errors import UnknownFunctionError, classify
from gen_worker.runtime.http.answers import retry_after, status_of

if TYPE_CHECKING:
    from gen_worker.errors import Failure, WorkerError

    Headers = tuple[tuple[bytes, bytes], ...]

__all__ = ["failed_status", "refusal_of"]


def failed_status(failure: Failure, *, is_plain: bool) -> tuple[int, Headers]:
    """Return the status of a failure, and the headers that go with it."""
    if is_plain:
        return 400, ()
    status = status_of(failure)
    wait = retry_after(failure, status)
    return status, ((b"retry-after", wait.encode()),) if wait else ()


def refusal_of(error: WorkerError) -> tuple[Failure, dict[str, Any]]:
    """Return the failure that an error means, and the body of its answer."""
    failure = classify(error, origin="input")
    word = failure.code or failure.error_type
    if isinstance(error, UnknownFunctionError) and not failure.code:
        word = "unknown_function"
    body: dict[str, Any] = {"error": word, "message": failure.message}
    if failure.path:
        body["path"] = failure.path
    request_id = getattr(error, "request_id", None)
    if isinstance(request_id, str):  # whose key it is
        body["request_id"] = request_id
    return failure, body | {"error_type": failure.error_type, "retryable": failure.retryable}
