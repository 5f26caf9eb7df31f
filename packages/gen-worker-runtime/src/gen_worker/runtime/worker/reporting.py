"""The worker's events on their way to the orchestrator."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gen_worker.runtime.telemetry.sending import encode_keys
from gen_worker.runtime.wire import WorkerEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.telemetry.sending import Teller

__all__ = ["tell"]


def tell(outbox: Teller, event_type: str, payload: Mapping[str, Any], request_id: str = "") -> None:
    """Report that something happened; never fails a job and never blocks.

    Args:
        outbox: Where it goes; what is older is shed when there is no room.
        event_type: A name of the catalog, or the author's own.
        payload: A JSON object; it is given the time as `timestamp`.
        request_id: Empty when it is about the worker.
    """
    data = encode_keys(payload, time.time())
    outbox.tell(WorkerEvent(request_id=request_id, event_type=event_type, payload_json=data))
