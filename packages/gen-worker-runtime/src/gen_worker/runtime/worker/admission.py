"""Whether a request is taken in: the first thing that speaks against it, in the spec's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import OverloadedError, RetryableError, UnknownFunctionError, classify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.wire import JobRequest
    from gen_worker.runtime.worker.availability import Gate

__all__ = [
    "Refusal",
    "busy",
    "draining",
    "gated",
    "no_such_device",
    "overloaded",
    "too_large",
    "unknown_function",
]


class Refusal(NamedTuple):
    """Why a request is not run: what the operator and what the client are told."""

    event: Mapping[str, Any]
    """Payload of `request.rejected`."""
    error_type: str
    retryable: bool = False
    safe_message: str = ""


def unknown_function(request: JobRequest) -> Refusal:
    event = {"reason": "unknown_function", "function_name": request.function}
    failure = classify(UnknownFunctionError())
    return Refusal(event, failure.error_type, False, "internal error")


def gated(request: JobRequest, gate: Gate) -> Refusal:
    """Refuse for a function that is not available."""
    from gen_worker.errors import safe_text

    event = {"reason": gate.reason, "function_name": request.function}
    return Refusal(event, gate.error_type, False, safe_text(gate.detail, gate.reason))


def too_large(request: JobRequest) -> Refusal:
    event = {"reason": "input_too_large", "input_bytes": len(request.payload)}
    return Refusal(event, "validation", False, "invalid input")


def no_such_device(request: JobRequest) -> Refusal:
    """Refuse because the GPU that was chosen for the request is none of this worker's."""
    index = request.compute.gpu_index if request.compute is not None else 0
    event = {"reason": "no_such_device", "function_name": request.function, "gpu_index": index}
    return Refusal(event, "hardware_unmet", False, f"there is no GPU {index} here")


def draining() -> Refusal:
    return _later("worker_draining", RetryableError("worker busy"))


def busy() -> Refusal:
    """Refuse because as many requests run as the operator allows."""
    return _later("max_concurrency_reached", RetryableError("worker busy"))


def overloaded() -> Refusal:
    """Refuse because as many requests wait as may."""
    return _later("local_queue_full", OverloadedError())


def _later(reason: str, error: Exception) -> Refusal:
    failure = classify(error)
    return Refusal({"reason": reason}, failure.error_type, failure.retryable, failure.message)
