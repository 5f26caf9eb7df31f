"""The answer of a call, the same from every host, and the status that goes with it.

A host may add keys; none is ever taken away.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.events import Failed, Result, context_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.errors import Failure
    from gen_worker.events import Event, Timings

    StatusOf = Callable[[Failure], int]

__all__ = [
    "answer_of",
    "encode",
    "json_line",
    "printable",
    "record_of",
    "records_of",
    "retry_after",
    "status_of",
]

_NO_EVENTS = msgspec.Raw(b"[]")
_MAX_SHOWN_CHARS = 2000
_BUSY = (429, 503)

_encode = msgspec.json.Encoder().encode
_encode_any = msgspec.json.Encoder(enc_hook=str).encode


class _Timing(msgspec.Struct, gc=False):
    total_ms: float
    queue_ms: float
    input_ms: float
    load_ms: float
    compute_ms: float
    output_ms: float


class _Success(msgspec.Struct, gc=False, kw_only=True):
    request_id: str
    success: bool = True
    output: msgspec.Raw
    error_type: None = None
    safe_message: None = None
    error_message: None = None
    events: msgspec.Raw
    timing_ms: _Timing


class _Failure(msgspec.Struct, gc=False, kw_only=True):
    request_id: str
    success: bool = False
    output: None = None
    error_type: str
    safe_message: str
    error_message: str
    events: msgspec.Raw
    timing_ms: _Timing
    retryable: bool
    code: str
    path: str
    http_status: int
    retry_after_s: float | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


def answer_of(
    outcome: Result | Failed,
    total_s: float,
    *,
    output: msgspec.Raw | None = None,
    events: bytes = b"",
    error: str = "",
) -> bytes:
    """Return the body of an answer.

    Args:
        outcome: How the call ended; a result is JSON already.
        total_s: Since the request was read.
        output: In place of the result's own value, for what was streamed.
        events: Records of what the author reported, each followed by a comma.
        error: A word for programs, where the failure is not the function's.
    """
    shown = msgspec.Raw(b"[%b]" % events[:-1]) if events else _NO_EVENTS
    timing = _timing(outcome.timings, total_s)
    if isinstance(outcome, Result):
        return _encode(
            _Success(
                request_id=outcome.request_id,
                output=output or outcome.value,
                events=shown,
                timing_ms=timing,
            )
        )
    failure = outcome.failure
    message = printable(failure.message)
    return _encode(
        _Failure(
            request_id=outcome.request_id,
            error_type=failure.error_type,
            safe_message=message,
            error_message=message,
            events=shown,
            timing_ms=timing,
            retryable=failure.retryable,
            code=printable(failure.code),
            path=printable(failure.path),
            http_status=failure.http_status,
            retry_after_s=failure.retry_after_s or msgspec.UNSET,
            error=error or msgspec.UNSET,
        )
    )


def _timing(spent: Timings, total_s: float) -> _Timing:
    # Cut to microseconds: `round` takes ten times as long, and there are six of them.
    return _Timing(
        int(total_s * 1e6) / 1e3,
        int(spent.queue_ms * 1e3) / 1e3,
        int(spent.input_ms * 1e3) / 1e3,
        int(spent.load_ms * 1e3) / 1e3,
        int(spent.compute_ms * 1e3) / 1e3,
        int(spent.output_ms * 1e3) / 1e3,
    )


def status_of(failure: Failure) -> int:
    """Return the status of a failed call, by the error table."""
    return failure.http_status


def retry_after(failure: Failure, status: int) -> str:
    """Return when to try again, in whole seconds; empty when the table says nothing of it."""
    if status not in _BUSY or not (failure.retryable or failure.retry_after_s):
        return ""
    return str(max(1, math.ceil(min(failure.retry_after_s or 1.0, 3600.0))))


def record_of(event: Event) -> bytes | None:
    """Return what the author reported, as a JSON object; None for what is not shown."""
    record = context_record(event)
    if record is None:
        return None
    shown = {
        "request_id": record["request_id"],
        "event_type": record["type"],
        "payload": record["payload"],
        "timestamp": record["timestamp"],
    }
    try:
        return _encode_any(shown)
    except (TypeError, ValueError, RecursionError):  # what JSON cannot say, as Python shows it
        text = ascii(record["payload"])[:_MAX_SHOWN_CHARS]
        return _encode(
            {**shown, "event_type": printable(record["type"]), "payload": {"text": text}}
        )


def records_of(batch: Sequence[Event]) -> bytes:
    """Return the records of a batch, each followed by a comma."""
    found = [record_of(event) for event in batch]
    return b"".join(b"%b," % record for record in found if record is not None)


def json_line(value: msgspec.Raw | bytes) -> bytes:
    """Return JSON on one line: an author's own `msgspec.Raw` may have line breaks."""
    data = bytes(value)
    if b"\n" in data or b"\r" in data:
        return msgspec.json.format(data, indent=-1)
    return data


def printable(text: str) -> str:
    """Return a text that is UTF-8; a file's name in a message need not be."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def encode(value: Any) -> bytes:
    return _encode(value)
