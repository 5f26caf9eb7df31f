"""The worker's events on their way to the orchestrator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gen_worker.events import context_record
from gen_worker.runtime.wire import WorkerEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.events import Telemetry
    from gen_worker.runtime.wire import DiagnosticLog

__all__ = ["ContextEvents", "Teller", "tell"]

_to_json = msgspec.json.Encoder(enc_hook=str, order="sorted").encode


class Teller(Protocol):
    """Where telemetry goes: the outbox. Any thread."""

    def tell(self, event: WorkerEvent | DiagnosticLog) -> bool: ...


def tell(outbox: Teller, event_type: str, payload: Mapping[str, Any], request_id: str = "") -> None:
    """Report that something happened; never fails a job and never blocks.

    Args:
        outbox: Where it goes; what is older is shed when there is no room.
        event_type: A name of the catalog, or the author's own.
        payload: A JSON object.
        request_id: Empty when it is about the worker.
    """
    event = WorkerEvent(request_id=request_id, event_type=event_type, payload_json=_json(payload))
    outbox.tell(event)


class ContextEvents:
    """The `Events` port of a worker: what authors and rooms report becomes worker events."""

    def __init__(self, outbox: Teller) -> None:
        self._outbox = outbox

    def __repr__(self) -> str:
        return f"<ContextEvents to {self._outbox!r}>"

    def emit(self, event: Telemetry) -> None:
        """Pass on what an author said; the times of a call are reported with its result."""
        record = context_record(event)
        if record is None:
            return
        payload = record["payload"]
        if record["request_id"]:
            payload = {"timestamp": record["timestamp"], **payload}
        tell(self._outbox, record["type"], payload, record["request_id"])


def _json(payload: Mapping[str, Any]) -> bytes:
    try:
        return _to_json(payload)
    except (TypeError, ValueError, RecursionError):
        # What JSON cannot say, such as keys that are objects, is shown the way Python shows it.
        return _to_json({str(key): ascii(value)[:2000] for key, value in payload.items()})
