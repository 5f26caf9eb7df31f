"""What workers say of requests, in the form in which every host shows it to clients.

The same call gives the same events, deltas and answers from `gen-worker serve --http` and from
here: `gen_worker.runtime.http.memory_job` is the other place.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    CanceledError,
    DeadlineExceededError,
    DuplicateRequestError,
    Failure,
    FatalError,
    FunctionUnavailableError,
    HardwareUnmetError,
    OverloadedError,
    RefCompatibilitySurprise,
    ResourceError,
    RetryableError,
    ValidationError,
    WorkerError,
    classify,
    safe_text,
)
from gen_worker.events import Emitted, Timings
from gen_worker.runtime.http.answers import json_line, record_of
from gen_worker.runtime.scheduler.values import NewEvent
from gen_worker.runtime.wire.places import split_place

if TYPE_CHECKING:
    from gen_worker.runtime.wire import JobResult, Observation, TokenDelta, WorkerEvent

__all__ = [
    "ENDS",
    "delta_event",
    "failure_of",
    "is_refusal",
    "reported_event",
    "timings_of",
    "value_of",
]

_PROGRESS = "request.progress"
ENDS = frozenset({"request.completed", "request.failed", "request.cancelled"})
"""The last that a worker reports of a request, where it reports its life."""
_OWN = ENDS | {
    "request.received",
    "request.started",
    "request.rejected",
    *(f"request.{kind}.started" for kind in ("inference", "training")),
    *(f"request.{kind}.completed" for kind in ("inference", "training")),
    *(f"request.{kind}.failed" for kind in ("inference", "training")),
    "metrics.compute.started",
    "metrics.compute.completed",
}
"""What the record of a request says already, and better: whatever is tried again, it ends once."""
_ERRORS: dict[str, type[Exception]] = {
    "validation": ValidationError,
    "retryable": RetryableError,
    "resource": ResourceError,
    "fatal": FatalError,
    "auth": AuthError,
    "canceled": CanceledError,
    "cancelled": CanceledError,
    "hardware_unmet": HardwareUnmetError,
    "function_unavailable": FunctionUnavailableError,
    "ref_compatibility_surprise": RefCompatibilitySurprise,
    "artifact_transfer": ArtifactTransferError,
    "worker_overloaded": OverloadedError,
    "duplicate_request_id": DuplicateRequestError,
}
"""By the words of the wire; any other is `internal`."""

_from_msgpack = msgspec.msgpack.Decoder().decode
_from_json = msgspec.json.Decoder(dict[str, Any]).decode
_to_json = msgspec.json.Encoder().encode
_to_sorted_json = msgspec.json.Encoder(order="sorted").encode


def reported_event(event: WorkerEvent, attempt: int, now: float) -> NewEvent | None:
    """Return what a worker reports about a request; None when clients are not shown it.

    Args:
        event: As it came.
        attempt: Whose.
        now: Unix time, for one that does not say when.
    """
    if event.event_type in _OWN:
        return None
    try:
        payload = _from_json(event.payload_json)
    except msgspec.MsgspecError:
        return None
    at = payload.pop("timestamp", None)
    record = record_of(
        Emitted(
            request_id=event.request_id,
            type=event.event_type,
            payload=payload,
            at=float(at) if isinstance(at, (int, float)) and not isinstance(at, bool) else now,
        )
    )
    name = b"progress" if event.event_type == _PROGRESS else b"event"
    return None if record is None else NewEvent(name, record, attempt)


def delta_event(delta: TokenDelta, attempt: int) -> NewEvent:
    """Return one item of a streamed output.

    Raises:
        msgspec.MsgspecError: It is no JSON.
    """
    if delta.audio_chunk or delta.audio_codec:
        item = _from_json(delta.payload_json) if delta.payload_json else {}
        if delta.audio_chunk:
            item["audio_chunk"] = base64.b64encode(delta.audio_chunk).decode()
        if delta.audio_codec:
            item["audio_codec"] = delta.audio_codec
        data = _to_sorted_json(item)
    elif delta.payload_json:
        data = json_line(delta.payload_json)
    else:
        data = _to_json({"delta_text": delta.delta_text})
    return NewEvent(b"delta", data, attempt, delta.sequence)


def value_of(result: JobResult) -> bytes:
    """Return what a function returned, as JSON.

    Raises:
        msgspec.MsgspecError: It is not MessagePack.
        TypeError: It holds something JSON has no word for.
    """
    return _to_json(_from_msgpack(result.payload))


def timings_of(observation: Observation | None) -> Timings:
    """Return where the time went, as far as the wire tells."""
    if observation is None:
        return Timings()
    return Timings(
        queue_ms=float(observation.local_queue_ms), compute_ms=float(observation.runtime_ms)
    )


def failure_of(result: JobResult, *, is_late: bool = False) -> Failure:
    """Return how a request failed, in the words every transport shares.

    Args:
        result: Of the worker.
        is_late: Whether its deadline has passed, and so is why it was canceled.
    """
    known = _known_failure(result.error_type)
    if known.error_type == "canceled" and is_late:
        return classify(DeadlineExceededError())
    message, path = safe_text(result.safe_message, known.message), ""
    if known.error_type == "validation":
        message, path = split_place(message)
    return msgspec.structs.replace(
        known,
        error_type=known.error_type if result.error_type in _ERRORS else "internal",
        retryable=result.retryable,
        message=message,
        path=path,
    )


@lru_cache(64)
def _known_failure(error_type: str) -> Failure:
    cls = _ERRORS.get(error_type, WorkerError)
    error = cls.__new__(cls)  # what it says is the worker's business
    return msgspec.structs.replace(classify(error), exception="", retry_after_s=None)


def is_refusal(result: JobResult) -> bool:
    """Tell whether a worker has not even begun what it was given.

    Who has run something knows how long it took, or what memory it had.
    """
    seen = result.observation
    return not result.success and (
        seen is None
        or not (
            seen.runtime_ms or seen.local_queue_ms or seen.peak_memory_bytes or seen.peak_vram_bytes
        )
    )
