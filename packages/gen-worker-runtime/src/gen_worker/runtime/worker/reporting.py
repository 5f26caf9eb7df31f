"""The worker's events on their way to the orchestrator."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gen_worker.runtime.wire import WorkerEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.wire import DiagnosticLog

__all__ = ["Teller", "tell"]

_to_json = msgspec.json.Encoder(enc_hook=str, order="sorted").encode


class Teller(Protocol):
    """Where telemetry goes: the outbox. Any thread."""

    def tell(self, event: WorkerEvent | DiagnosticLog) -> bool: ...


def tell(outbox: Teller, event_type: str, payload: Mapping[str, Any], request_id: str = "") -> None:
    """Report that something happened; never fails a job and never blocks.

    Args:
        outbox: Where it goes; what is older is shed when there is no room.
        event_type: A name of the catalog, or the author's own.
        payload: A JSON object; it is given the time as `timestamp`.
        request_id: Empty when it is about the worker.
    """
    event = WorkerEvent(
        request_id=request_id,
        event_type=event_type,
        payload_json=_json({"timestamp": time.time(), **payload}),
    )
    outbox.tell(event)


def _json(payload: Mapping[str, Any]) -> bytes:
    try:
        return _to_json(payload)
    except (TypeError, ValueError, RecursionError):
        # What JSON cannot say, such as keys that are objects, is shown the way Python shows it.
        return _to_json({str(key): ascii(value)[:2000] for key, value in payload.items()})
