"""Events on their way to whoever passes them on, and word of those that were lost there."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol

from gen_worker.runtime.telemetry.payloads import Payload, TelemetryShed, encode_payload
from gen_worker.runtime.wire import WorkerEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.runtime.engine import Clock
    from gen_worker.runtime.engine.deadlines import Timers
    from gen_worker.runtime.wire import DiagnosticLog

__all__ = ["Sender", "Teller", "encode_keys"]

_REPORT_S = 1.0
_MAX_SHOWN_CHARS = 2000

_log = logging.getLogger("gen_worker.telemetry")


class Teller(Protocol):
    """Where telemetry goes: a worker's outbox. Any thread."""

    def tell(self, event: WorkerEvent | DiagnosticLog) -> bool:
        """Take it, or let something older go for it and return False."""
        ...


class Sender:
    """Encodes events and hands them on. Any thread; never blocks, never raises."""

    def __init__(
        self, teller: Teller, clock: Clock, timers: Timers, shed: Callable[[], int] | None = None
    ) -> None:
        """Prepare to send.

        Args:
            teller: Takes the events.
            clock: For timestamps.
            timers: For the report on lost events.
            shed: Says how many events were dropped, ever; by default those that `teller` refused.
        """
        self.unix_time = clock.time
        self._teller = teller
        self._timers = timers
        self._shed = shed or self._own_count
        self._refused = 0
        self._reported = 0
        self._is_reporting = False
        self._lock = threading.Lock()

    @property
    def shed(self) -> int:
        """Events that were dropped, ever."""
        return self._shed()

    def send(self, name: str, payload: Payload, request_id: str = "") -> None:
        """Send an event of this worker.

        Args:
            name: Of the catalog.
            payload: What it says.
            request_id: Empty when it is about the worker.
        """
        try:
            self._send(name, encode_payload(payload), request_id)
        except Exception:  # a report must not break what it reports on
            _log.exception("event %r is left out", name)

    def send_keys(self, name: str, keys: Mapping[str, Any], request_id: str = "") -> None:
        """Send an event that a room or an author put together.

        Args:
            name: Of the catalog, or the author's own.
            keys: Its payload; given the present time as `timestamp`, unless it has one.
            request_id: Empty when it is about the worker.
        """
        try:
            self._send(name, encode_keys(keys, self.unix_time()), request_id)
        except Exception:
            _log.exception("event %r is left out", name)

    def _send(self, name: str, data: bytes, request_id: str) -> None:
        self.pass_on(WorkerEvent(request_id=request_id, event_type=name, payload_json=data))

    def pass_on(self, event: WorkerEvent | DiagnosticLog) -> None:
        """Hand a message on as it is."""
        if not self._teller.tell(event):
            self._note_shed()

    def _note_shed(self) -> None:
        """Have it reported soon, however many more are shed until then."""
        with self._lock:
            self._refused += 1
            if self._is_reporting:
                return
            self._is_reporting = True
        self._timers.add(_REPORT_S, self._report_shed)

    def _report_shed(self) -> None:
        with self._lock:
            self._is_reporting = False
            total = self._shed()
            shed, self._reported = total - self._reported, total
        now = self.unix_time()
        _log.warning("%d events were dropped for want of room", shed)
        self.send("worker.telemetry.shed", TelemetryShed(timestamp=now, shed=shed, total=total))

    def _own_count(self) -> int:
        return self._refused


def encode_keys(keys: Mapping[str, Any], now: float) -> bytes:
    """Return the payload of an event, whatever its values are.

    Args:
        keys: Its payload.
        now: Its `timestamp`, in unix time, unless it has one.
    """
    payload = {"timestamp": now, **keys}
    try:
        return encode_payload(payload)
    except (TypeError, ValueError, RecursionError):
        # What JSON cannot say, such as keys that are objects, is shown the way Python shows it.
        shown = {str(key): ascii(value)[:_MAX_SHOWN_CHARS] for key, value in payload.items()}
        return encode_payload(shown)
