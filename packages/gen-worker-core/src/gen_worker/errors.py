"""Every error a call can end with, and the one table of what each means to a caller.

A transport never decides what an exception means: it asks `classify` for a `Failure` and writes its
fields in its own terms (a gRPC result, an HTTP status, an NDJSON frame, an exit code).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

__all__ = [
    "ArtifactTransferError",
    "AuthError",
    "CanceledError",
    "DeadlineExceededError",
    "Disposition",
    "DuplicateRequestError",
    "Failure",
    "FatalError",
    "FunctionUnavailableError",
    "HardwareUnmetError",
    "InputTooLargeError",
    "ModelResolutionError",
    "Origin",
    "OutputTooLargeError",
    "OverloadedError",
    "OverrideError",
    "RefCompatibilitySurprise",
    "ResourceError",
    "RetryableError",
    "SettingsError",
    "UnknownFunctionError",
    "ValidationError",
    "WorkerError",
    "classify",
    "is_out_of_memory",
    "safe_text",
]

Origin = Literal["input", "handler"]
"""Where an exception was raised: while the SDK prepared the call, or in the author's code."""


class WorkerError(Exception):
    """Root of every error gen-worker raises or lets an author raise.

    Keyword data given to a subclass is kept as attributes, so that callers read fields and never
    message texts. Instances survive pickling.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(
    cls: type[WorkerError], args: tuple[object, ...], state: dict[str, object]
) -> WorkerError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class ValidationError(WorkerError, ValueError):
    """The input is wrong and the same input will stay wrong: the caller has to change it."""

    def __init__(self, message: str = "", *, path: str = "") -> None:
        """Keep the place of the mistake.

        Args:
            message: What is wrong and how to mend it.
            path: JSON path of the offending value, such as `$.steps`; empty when unknown.
        """
        super().__init__(message)
        self.path = path


class OutputTooLargeError(ValidationError):
    """An output exceeds a limit, given in bytes."""

    def __init__(self, message: str = "", *, size_bytes: int, max_bytes: int) -> None:
        super().__init__(
            message or f"the output has {size_bytes} bytes, at most {max_bytes} are allowed"
        )
        self.size_bytes = size_bytes
        self.max_bytes = max_bytes


class InputTooLargeError(ValidationError):
    """An input exceeds a limit, given in bytes."""

    def __init__(
        self, message: str = "", *, size_bytes: int, max_bytes: int, source: str = "input"
    ) -> None:
        remedy = ": send what is large as a file" if source == "payload" else ""
        text = f"the {source} has {size_bytes} bytes, at most {max_bytes} are allowed{remedy}"
        super().__init__(message or text)
        self.size_bytes = size_bytes
        self.max_bytes = max_bytes
        self.source = source


class RefCompatibilitySurprise(ValidationError):
    """A model ref chosen by the caller turned out not to fit the function."""

    def __init__(self, message: str = "", *, ref: str = "", axis: str = "") -> None:
        super().__init__(message or f"the model {ref!r} does not fit this function")
        self.ref = ref
        self.axis = axis


class OverrideError(ValidationError):
    """One entry of the `_models` envelope is refused, and with it the whole request."""

    def __init__(self, message: str, *, code: str, param: str) -> None:
        """Keep the refusal as data.

        Args:
            message: What is wrong with the entry.
            code: One of the six codes of `docs/endpoint-authoring.md`, such as
                `model_override_not_allowed`.
            param: The parameter name the entry was given for.
        """
        super().__init__(message, path=f"$._models.{param}")
        self.code = code
        self.param = param


class UnknownFunctionError(WorkerError, LookupError):
    """No function of this name is served here."""


class CanceledError(WorkerError):
    """The call was canceled: by its caller, by a disconnect, or by a shutdown."""


class DeadlineExceededError(CanceledError, TimeoutError):
    """The call was canceled because its deadline passed."""


class RetryableError(WorkerError):
    """The call failed for a reason that may be gone at the next try."""


class OverloadedError(RetryableError):
    """Too many calls are waiting; try again after `retry_after_s` seconds."""

    def __init__(self, message: str = "worker busy", *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DuplicateRequestError(WorkerError):
    """A call with this request id is running already; it goes on undisturbed."""


class FunctionUnavailableError(WorkerError):
    """The function exists but cannot run on this worker."""

    def __init__(self, message: str = "", *, reason: str = "function_unavailable") -> None:
        super().__init__(message or reason)
        self.reason = reason


class HardwareUnmetError(FunctionUnavailableError):
    """This machine lacks the hardware the function needs."""

    def __init__(self, message: str = "", *, reason: str = "hardware_unmet") -> None:
        super().__init__(message, reason=reason)


class ResourceError(WorkerError):
    """The call ran out of a resource, such as memory or disk."""


class AuthError(WorkerError, PermissionError):
    """Credentials are missing, wrong or not sufficient."""


class ArtifactTransferError(WorkerError, OSError):
    """A file could not be moved from or to where it belongs."""

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        phase: str = "",
        retryable: bool = False,
        status_code: int | None = None,
        cause_type: str = "",
    ) -> None:
        facts = {
            "provider": provider,
            "phase": phase,
            "status": status_code,
            "cause": cause_type,
        }
        known = ", ".join(f"{name}={value}" for name, value in facts.items() if value)
        super().__init__(f"{message} ({known})" if known else message)
        self.provider = provider
        self.phase = phase
        self.retryable = retryable
        self.status_code = status_code
        self.cause_type = cause_type


class ModelResolutionError(ArtifactTransferError):
    """A model ref could not be turned into files on this machine."""


class FatalError(WorkerError):
    """The call failed for good; the same call must not be tried again."""


class SettingsError(FatalError, ValueError):
    """Settings that cannot be understood, all of them at once. Never the caller's fault."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Disposition(NamedTuple):
    """What one error class means to each transport."""

    error_type: str
    retryable: bool
    http_status: int
    exit_code: int
    default_message: str
    handler_exit_code: int | None = None
    """When the author's code raised it; None: 1 instead of 2, else the same."""

    def exit_code_from(self, origin: Origin) -> int:
        if origin == "input":
            return self.exit_code
        if self.handler_exit_code is not None:
            return self.handler_exit_code
        return 1 if self.exit_code == 2 else self.exit_code


_OUT_OF_MEMORY = Disposition("resource", False, 503, 1, "out of memory")

# First match along the class's own resolution order wins, so a subclass stands for itself.
_DISPOSITIONS: dict[type[BaseException], Disposition] = {
    OverrideError: Disposition("validation", False, 400, 2, "model override refused"),
    RefCompatibilitySurprise: Disposition(
        "ref_compatibility_surprise", False, 400, 1, "the model does not fit this function"
    ),
    InputTooLargeError: Disposition("validation", False, 413, 2, "input too large"),
    ValidationError: Disposition("validation", False, 400, 2, "invalid input"),
    UnknownFunctionError: Disposition("internal", False, 404, 2, "unknown function"),
    DeadlineExceededError: Disposition("canceled", False, 504, 1, "deadline exceeded"),
    CanceledError: Disposition("canceled", False, 499, 130, "canceled"),
    OverloadedError: Disposition("worker_overloaded", True, 429, 1, "worker busy"),
    RetryableError: Disposition("retryable", True, 503, 1, "retryable error"),
    DuplicateRequestError: Disposition(
        "duplicate_request_id", False, 409, 1, "duplicate request id"
    ),
    HardwareUnmetError: Disposition("hardware_unmet", False, 503, 1, "hardware unmet"),
    FunctionUnavailableError: Disposition(
        "function_unavailable", False, 503, 1, "function unavailable"
    ),
    ResourceError: Disposition("resource", False, 503, 1, "resource exhausted"),
    AuthError: Disposition("auth", False, 403, 1, "authentication failed"),
    ModelResolutionError: Disposition(
        "artifact_transfer", False, 502, 3, "model could not be resolved"
    ),
    ArtifactTransferError: Disposition(
        "artifact_transfer", False, 502, 1, "artifact transfer failed"
    ),
    # Settings are read when they are needed, so the place says nothing about whose mistake it is.
    SettingsError: Disposition(
        "fatal", False, 500, 2, "settings cannot be understood", handler_exit_code=2
    ),
    FatalError: Disposition("fatal", False, 500, 1, "fatal error"),
    # Beyond our own tree: what authors' code and its libraries raise.
    ValueError: Disposition("validation", False, 400, 2, "invalid input"),
    MemoryError: _OUT_OF_MEMORY,
    InterruptedError: Disposition("canceled", False, 499, 130, "canceled"),
}
_INTERNAL = Disposition("internal", False, 500, 1, "internal error")
_OUT_OF_MEMORY_NAMES = frozenset({"OutOfMemoryError", "CUDAOutOfMemoryError"})
_CUDA_ERROR_MEMORY_ALLOCATION = 2


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How a call failed, in the words every transport shares."""

    error_type: str
    """Wire vocabulary: `validation`, `retryable`, `resource`, `fatal`, `auth`, `canceled`, …"""
    retryable: bool
    http_status: int
    exit_code: int
    message: str
    """Safe for the caller: no credentials, URLs or absolute paths, at most 500 characters."""
    origin: Origin = "handler"
    exception: str = ""
    """Class name of the exception; empty when there was none."""
    detail: str = ""
    """Full text with traceback, for the operator's log only."""
    code: str = ""
    """Finer reason where one exists: an override code or a gate reason."""
    path: str = ""
    """JSON path of the offending input value, when known."""
    retry_after_s: float | None = None


def classify(error: BaseException, *, origin: Origin = "handler", detail: str = "") -> Failure:
    """Turn an exception into the `Failure` that every transport reports.

    Args:
        error: What ended the call.
        origin: `input` when it was raised while preparing the call, `handler` when the author's
            code raised it. A wrong input exits with 2, a handler that refuses it with 1; wrong
            settings exit with 2 wherever they were read.
        detail: The operator's text, usually the formatted traceback.
    """
    try:
        return _failure_of(_lone_member(error), origin, detail)
    except KeyboardInterrupt:
        raise
    except BaseException:  # an author's class whose attributes, text or metaclass raise
        return _failure_of(Exception(), origin, detail)


def _failure_of(error: BaseException, origin: Origin, detail: str) -> Failure:
    from gen_worker.masking import printable  # late: its patterns cost every start 3 ms

    row = _disposition(error)
    # A foreign text may say anything: paths, prompts, how the GPU's memory is laid out.
    is_hidden = row is _INTERNAL or row is _OUT_OF_MEMORY
    code = _fact(error, "code", str, "") or _fact(error, "reason", str, "")
    # Elsewhere it is a file of this machine, which is the operator's business.
    place = _fact(error, "path", str, "") if isinstance(error, ValidationError) else ""
    return Failure(
        error_type=row.error_type,
        retryable=_fact(error, "retryable", bool, row.retryable),
        http_status=row.http_status,
        exit_code=row.exit_code_from(origin),
        message=row.default_message if is_hidden else _message_of(error, row.default_message),
        origin=origin,
        exception=printable(type(error).__name__),
        detail=printable(detail),
        code=printable(code[:_MAX_CHARS]),
        path=printable(place[:_MAX_CHARS]),
        retry_after_s=_fact(error, "retry_after_s", (int, float), None),
    )


def _lone_member(error: BaseException) -> BaseException:
    """Unwrap what a task group wraps around the one error of one of its tasks."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _fact(error: BaseException, name: str, kind: Any, default: Any) -> Any:
    """Read what our own classes promise; on a foreign error the name means something else."""
    value = getattr(error, name, default) if isinstance(error, WorkerError) else default
    return value if isinstance(value, kind) and value == value else default  # NaN is no time


def _message_of(error: BaseException, default: str) -> str:
    try:
        text = str(error)
    except Exception:  # an author's `__str__`; the failure itself must still be reported
        text = ""
    return safe_text(text, default)


def _disposition(error: BaseException) -> Disposition:
    if is_out_of_memory(error) and not isinstance(error, WorkerError):
        return _OUT_OF_MEMORY
    rows = (_DISPOSITIONS.get(cls) for cls in type(error).__mro__)
    return next((row for row in rows if row is not None), _INTERNAL)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device was full; decided by types and error codes, never by a message.

    Device libraries are known by the names of their classes, so that none has to be imported.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    if not names.isdisjoint(_OUT_OF_MEMORY_NAMES):
        return True
    code = getattr(error, "error_code", None)
    return "AcceleratorError" in names and code == _CUDA_ERROR_MEMORY_ALLOCATION


_MAX_CHARS = 500
_MAX_SCANNED_CHARS = 20 * _MAX_CHARS


def safe_text(text: str, default: str = "job failed") -> str:
    """Mask credentials, URLs and absolute paths, and cut to 500 characters.

    Args:
        text: A message that may reach a caller.
        default: Used when `text` is blank.
    """
    from gen_worker.masking import printable, without_credentials, without_places

    masked = without_credentials(without_places(printable(text[:_MAX_SCANNED_CHARS]))).strip()
    return masked[:_MAX_CHARS] or default
