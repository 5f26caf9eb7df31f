"""How calls fail: as the classes of `gen_worker.errors`, with what the host said about it.

Each class here is a `CallError` and the class that the error table has for the reason, so that
`except ValidationError` and `except CallError` both do what they say.
"""

from __future__ import annotations

from typing import Any

from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    CanceledError,
    DeadlineExceededError,
    DuplicateRequestError,
    FatalError,
    FunctionUnavailableError,
    HardwareUnmetError,
    InputTooLargeError,
    OverloadedError,
    OverrideError,
    RefCompatibilitySurprise,
    ResourceError,
    RetryableError,
    UnknownFunctionError,
    ValidationError,
    WorkerError,
)

__all__ = [
    "CallError",
    "StreamGapError",
    "StreamRestartedError",
    "UnknownRequestError",
    "UnreachableError",
    "error_of_answer",
    "error_of_refusal",
]


class CallError(WorkerError):
    """A call failed, or the host refused what was asked of it."""

    def __init__(
        self,
        message: str,
        *,
        request_id: str = "",
        code: str = "",
        retryable: bool = False,
        retry_after_s: float = 0.0,
        http_status: int = 0,
        **more: Any,
    ) -> None:
        """Keep what the host said.

        Args:
            message: Safe to show.
            request_id: Of the call; empty when there was none.
            code: A finer reason, or the host's word for a refusal; may be empty.
            retryable: Whether trying again makes sense.
            retry_after_s: When to; 0 when the host did not say.
            http_status: 0 when there was no answer.
            **more: Attributes of the class from `gen_worker.errors`.
        """
        Exception.__init__(self, message)
        self.request_id = request_id
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.http_status = http_status
        self.__dict__.update(more)


class UnreachableError(CallError, RetryableError, ConnectionError):
    """The host did not answer, or stopped answering, however often it was asked."""


class UnknownRequestError(CallError, LookupError):
    """The host has no such request, or does not keep it any more."""


class StreamRestartedError(CallError, RetryableError):
    """The request began anew after a worker was lost; the items given so far do not count.

    Who gives `on_restart` to `stream` is called instead, and gets the items of the next attempt.
    """

    attempt: int = 0
    """The one that begins."""


class StreamGapError(CallError):
    """Events that were not read yet are not kept any more."""

    first: int = 0
    """Id of the first event that is lost."""
    last: int = 0


class _CallCanceledError(CallError, CanceledError):
    pass


class _CallDeadlineError(CallError, DeadlineExceededError):
    pass


class _CallValidationError(CallError, ValidationError):
    path: str = ""


class _CallOverrideError(CallError, OverrideError):
    path: str = ""
    param: str = ""


class _CallTooLargeError(CallError, InputTooLargeError):
    path: str = ""
    size_bytes: int = 0
    """Not known, as little as `max_bytes`."""
    max_bytes: int = 0
    source: str = "input"


class _CallRefError(CallError, RefCompatibilitySurprise):
    path: str = ""
    ref: str = ""
    axis: str = ""


class _CallUnknownFunctionError(CallError, UnknownFunctionError):
    pass


class _CallRetryableError(CallError, RetryableError):
    pass


class _CallOverloadedError(CallError, OverloadedError):
    pass


class _CallDuplicateError(CallError, DuplicateRequestError):
    pass


class _CallHardwareError(CallError, HardwareUnmetError):
    reason: str = "hardware_unmet"


class _CallUnavailableError(CallError, FunctionUnavailableError):
    reason: str = "function_unavailable"


class _CallResourceError(CallError, ResourceError):
    pass


class _CallAuthError(CallError, AuthError):
    pass


class _CallTransferError(CallError, ArtifactTransferError):
    provider: str = ""
    phase: str = ""
    status_code: int | None = None
    cause_type: str = ""


class _CallFatalError(CallError, FatalError):
    pass


_BY_TYPE: dict[str, type[CallError]] = {
    "artifact_transfer": _CallTransferError,
    "auth": _CallAuthError,
    "canceled": _CallCanceledError,
    "duplicate_request_id": _CallDuplicateError,
    "fatal": _CallFatalError,
    "function_unavailable": _CallUnavailableError,
    "hardware_unmet": _CallHardwareError,
    "ref_compatibility_surprise": _CallRefError,
    "resource": _CallResourceError,
    "retryable": _CallRetryableError,
    "validation": _CallValidationError,
    "worker_overloaded": _CallOverloadedError,
}
_BY_TYPE_AND_STATUS: dict[tuple[str, int], type[CallError]] = {
    ("canceled", 504): _CallDeadlineError,
    ("internal", 404): _CallUnknownFunctionError,
    ("validation", 413): _CallTooLargeError,
}
_BY_CODE: dict[str, type[CallError]] = {
    "unknown_function": _CallUnknownFunctionError,
    "unknown_request": UnknownRequestError,
}
_BY_STATUS: dict[int, type[CallError]] = {
    401: _CallAuthError,
    403: _CallAuthError,
    404: UnknownRequestError,
    408: _CallRetryableError,
    409: _CallDuplicateError,
    413: _CallTooLargeError,
    429: _CallOverloadedError,
    502: _CallRetryableError,
    503: _CallRetryableError,
    504: _CallRetryableError,
}
_OVERRIDES = "$._models."


def deadline_error(message: str, request_id: str = "") -> CallError:
    """Return what a deadline of the client's own is raised as."""
    return _CallDeadlineError(message, request_id=request_id)


def error_of_answer(
    answer: dict[str, Any], status: int = 0, retry_after_s: float = 0.0
) -> CallError:
    """Return the failure that an answer of a call tells of.

    Args:
        answer: As `docs/http-api.md` describes it.
        status: Of HTTP; 0 takes the one the answer names.
        retry_after_s: From the header; 0 takes what the answer says.
    """
    kind = _text(answer, "error_type")
    code, path = _text(answer, "code"), _text(answer, "path")
    named = answer.get("http_status")
    status = status or (named if isinstance(named, int) else 0)
    wait = answer.get("retry_after_s")
    cls = _BY_TYPE_AND_STATUS.get((kind, status)) or _BY_TYPE.get(kind, CallError)
    more: dict[str, Any] = {}
    if kind == "validation" and code and path.startswith(_OVERRIDES):
        cls, more = _CallOverrideError, {"param": path.removeprefix(_OVERRIDES)}
    if issubclass(cls, ValidationError):
        more["path"] = path
    if code and issubclass(cls, FunctionUnavailableError):
        more["reason"] = code
    return cls(
        _text(answer, "error_message") or f"the call failed: {kind or 'no reason was given'}",
        request_id=_text(answer, "request_id"),
        code=code,
        retryable=answer.get("retryable") is True,
        retry_after_s=retry_after_s or (float(wait) if isinstance(wait, (int, float)) else 0.0),
        http_status=status,
        **more,
    )


def error_of_refusal(
    body: Any, status: int, retry_after_s: float = 0.0, request_id: str = ""
) -> CallError:
    """Return what a host means that answers with a status that is no success.

    Args:
        body: The JSON of the answer; None when it was none.
        status: Of HTTP.
        retry_after_s: From the header; 0 when there was none.
        request_id: What was asked about.
    """
    record = body if isinstance(body, dict) else {}
    if "success" in record:  # only what was a call has it
        return error_of_answer(record, status, retry_after_s)
    code = _text(record, "error")
    if "error_type" in record:
        told = {"request_id": request_id, **record, "code": code}
        told["error_message"] = _text(record, "message")
        return error_of_answer(told, status, retry_after_s)
    cls = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if cls is None:
        cls = _CallValidationError if 400 <= status < 500 else CallError
    return cls(
        _text(record, "message") or f"the host answered with status {status}",
        request_id=_text(record, "request_id") or request_id,
        code=code,
        retryable=status in (408, 429, 502, 504) or (status == 503 and retry_after_s > 0),
        retry_after_s=retry_after_s,
        http_status=status,
    )


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""
