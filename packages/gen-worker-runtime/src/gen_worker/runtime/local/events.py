"""Telemetry as lines of JSON, for whoever reads this process's stderr."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from gen_worker.events import Emitted, Started, context_record

if TYPE_CHECKING:
    from gen_worker.events import Telemetry

__all__ = ["JsonLineEvents", "line_record"]

_encode = msgspec.json.Encoder(enc_hook=str, order="sorted").encode

# A reader that is merely busy catches up within this; one that never reads costs it once.
_PATIENCE_S = 0.05


def line_record(event: Telemetry) -> dict[str, Any] | None:
    """Return what is printed of an event; None for what is not printed.

    What belongs to no request, such as `model_fetch.started`, is `{"kind": …}` and its facts.
    """
    if isinstance(event, Emitted) and not event.request_id:
        return {"kind": event.type, **event.payload}
    return context_record(event)


class JsonLineEvents:
    """The `Events` port that prints each event as one line, its keys sorted.

    When nobody reads the other end, events are dropped rather than waited for; the next line that
    gets through is preceded by `{"count": …, "kind": "events.dropped"}`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.dropped = 0
        self._stream = stream
        # Reentrant: a signal handler may emit while its thread is in the middle of a line.
        self._lock = threading.RLock()
        self._is_stalled = False
        self._unreported = 0

    def __repr__(self) -> str:
        return f"<JsonLineEvents dropped={self.dropped}>"

    def emit(self, event: Telemetry) -> None:
        if isinstance(event, Started):  # each call has one, and nothing is printed of it
            return
        try:
            record = line_record(event)
            if record is not None:
                with self._lock:
                    self._write(_line(record))
        except Exception:  # a closed or broken stream must not fail the call that reports to it
            self._drop()

    def _write(self, line: str) -> None:
        if not self._has_reader():
            self._drop()
            return
        if self._unreported:
            line = _line({"kind": "events.dropped", "count": self._unreported}) + line
        self._stream.write(line)
        self._stream.flush()
        self._unreported = 0

    def _drop(self) -> None:
        self.dropped += 1
        self._unreported += 1

    def _has_reader(self) -> bool:
        """Tell whether a line can be written now, waiting a moment unless it was in vain before."""
        import select

        try:
            patience = 0.0 if self._is_stalled else _PATIENCE_S
            ready = select.select([], [self._stream.fileno()], [], patience)[1]
        except (OSError, ValueError, AttributeError):  # no descriptor, or one select cannot watch
            return True
        self._is_stalled = not ready
        return bool(ready)


def _line(record: dict[str, Any]) -> str:
    try:
        return f"{_encode(record).decode()}\n"
    except (TypeError, ValueError, RecursionError):
        # What JSON cannot say, such as keys that are objects, is shown the way Python shows it.
        shown = {key: ascii(value)[:2000] for key, value in record.items()}
        return f"{_encode(shown).decode()}\n"
