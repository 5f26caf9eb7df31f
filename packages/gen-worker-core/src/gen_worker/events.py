"""Everything a call reports while it runs, as one tagged union.

The engine and the context produce these; each transport turns them into its own bytes. `at` is
always Unix time in seconds.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gen_worker.errors import Failure

__all__ = [
    "Delta",
    "Emitted",
    "Event",
    "Failed",
    "Log",
    "Metric",
    "Progress",
    "Result",
    "Started",
    "Telemetry",
    "Timings",
    "context_record",
]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", gc=False):
    request_id: str


class Started(_Event, frozen=True, tag="started"):
    """The handler is about to be called."""

    function: str
    at: float


class Progress(_Event, frozen=True, tag="progress"):
    """`ctx.progress`: how far the call is, 0 to 1, and what it is doing."""

    progress: float
    at: float
    stage: str | None = None


class Log(_Event, frozen=True, tag="log"):
    """`ctx.log`: one line from the author."""

    message: str
    at: float
    level: str = "info"


class Emitted(_Event, frozen=True, tag="emitted"):
    """`ctx.emit`, and every named event of the catalog: a type and a JSON object."""

    type: str
    payload: dict[str, Any]
    at: float


class Metric(_Event, frozen=True, tag="metric"):
    """One measured number; the unit is in the name, such as `queue_ms`."""

    name: str
    value: float
    at: float


class Delta(_Event, frozen=True, tag="delta"):
    """One item of a streamed output."""

    value: Any
    """The struct the author yielded, already checked against the declared type."""
    sequence: int
    """Counts from 1 within the call."""


class Timings(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where the time of one call went, in milliseconds."""

    queue_ms: float = 0.0
    """Waiting for a thread or a device slot."""
    input_ms: float = 0.0
    """Decoding, and fetching the files the payload refers to."""
    load_ms: float = 0.0
    """Preparing and leasing models, `setup` and `warmup` included."""
    compute_ms: float = 0.0
    """Inside the author's function."""
    output_ms: float = 0.0
    """Checking, saving files and encoding."""


class Result(_Event, frozen=True, tag="result"):
    """The call succeeded."""

    value: Any
    """The handler's value; for a streamed output `{"yielded": <count>}`."""
    timings: Timings
    is_streamed: bool = False


class Failed(_Event, frozen=True, tag="failed"):
    """The call failed or was canceled."""

    failure: Failure
    timings: Timings


Telemetry = Started | Progress | Log | Emitted | Metric
"""May be shed under load, counted; never blocks the call."""

Event = Started | Progress | Log | Emitted | Metric | Delta | Result | Failed


def context_record(event: Event) -> dict[str, Any] | None:
    """Return what the author reported, in the one shape every text transport writes.

    Returns:
        `{"payload", "request_id", "timestamp", "type"}`, keys sorted; None for events that do not
        come from the author's context.
    """
    match event:
        case Progress():
            stage = {} if event.stage is None else {"stage": event.stage}
            payload: dict[str, Any] = {"progress": event.progress, **stage}
            name = "request.progress"
        case Log():
            payload = {"level": event.level, "message": event.message}
            name = "request.log"
        case Emitted():
            payload, name = event.payload, event.type
        case _:
            return None
    return {
        "payload": payload,
        "request_id": event.request_id,
        "timestamp": event.at,
        "type": name,
    }
