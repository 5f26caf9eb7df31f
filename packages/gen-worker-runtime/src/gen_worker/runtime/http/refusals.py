"""The status of a failure, and the words for what never became a call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import UnknownFunctionError, WorkerError, classify
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.answers import encode, retry_after, status_of

if TYPE_CHECKING:
    from gen_worker.errors import Failure

    Headers = tuple[tuple[bytes, bytes], ...]

__all__ = ["Reply", "failed_status", "reply_to_error"]

_log = logging.getLogger("gen_worker.runtime")


class Reply(NamedTuple):
    """A whole answer; its body is JSON."""

    status: int
    body: bytes
    headers: Headers = ()


def failed_status(failure: Failure, *, is_plain: bool) -> tuple[int, Headers]:
    """Return the status of a failure, and the headers that go with it."""
    if is_plain:
        return 400, ()
    status = status_of(failure)
    wait = retry_after(failure, status)
    return status, ((b"retry-after", wait.encode()),) if wait else ()


def reply_to_error(error: Exception, what: str, *, is_plain: bool) -> Reply:
    """Return what is answered instead, and log what is not the client's mistake.

    Args:
        error: What ended a request.
        what: Its method and path, for the log.
        is_plain: As in `HttpOptions`.
    """
    if isinstance(error, Refusal):
        return _refused(error)
    if not isinstance(error, WorkerError):  # of one request; the server goes on
        _log.error("%s failed", what, exc_info=error)
        return _refused(Refusal(500, "internal", "the server failed; its log says why"))
    failure = classify(error, origin="input")
    status, headers = failed_status(failure, is_plain=is_plain)
    if status >= 500:
        level, trace = (logging.ERROR, error) if status == 500 else (logging.WARNING, None)
        _log.log(level, "%s failed: %s", what, failure.message, exc_info=trace)
    return Reply(status, encode(_body_of(error, failure)), headers)


def _refused(refusal: Refusal) -> Reply:
    headers: Headers = ()
    if refusal.status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    elif refusal.status == 503:
        headers = ((b"retry-after", b"1"),)
    elif refusal.allow:
        headers = ((b"allow", refusal.allow.encode()),)
    return Reply(refusal.status, encode(refusal.to_dict()), headers)


def _body_of(error: WorkerError, failure: Failure) -> dict[str, Any]:
    word = failure.code or failure.error_type
    if isinstance(error, UnknownFunctionError) and not failure.code:
        word = "unknown_function"
    body: dict[str, Any] = {"error": word, "message": failure.message}
    if failure.path:
        body["path"] = failure.path
    request_id = getattr(error, "request_id", None)
    if isinstance(request_id, str):  # whose key it is
        body["request_id"] = request_id
    return body | {"error_type": failure.error_type, "retryable": failure.retryable}
