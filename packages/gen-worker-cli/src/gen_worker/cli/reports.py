"""What a call reports while it runs, shown on stderr.

A program that reads stderr gets one JSON line per context event. A person at a terminal gets the
same as short lines of text, and a progress bar once a call takes longer than a second.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gen_worker.events import Emitted, Log, Progress
from gen_worker.runtime.local import JsonLineEvents

if TYPE_CHECKING:
    from gen_worker.events import Telemetry

__all__ = ["JsonReports", "Reports", "open_reports", "telemetry_of"]


class Reports(Protocol):
    """The `events` port of the command line; `emit` is called from any thread."""

    def emit(self, event: Telemetry) -> None: ...
    def showing(self, label: str) -> AbstractContextManager[object]:
        """Show that a call named `label` runs, for as long as the block takes."""
        ...

    def aside(self) -> AbstractContextManager[object]:
        """Keep the terminal free for other output during the block."""
        ...


def open_reports() -> Reports:
    if sys.stderr.isatty():
        from gen_worker.cli.terminal import TerminalReports

        return TerminalReports()
    return JsonReports(sys.stderr)


class JsonReports(JsonLineEvents):
    """One line of JSON per context event, keys sorted; nothing is ever drawn."""

    def showing(self, label: str) -> AbstractContextManager[object]:
        return nullcontext()

    def aside(self) -> AbstractContextManager[object]:
        return nullcontext()


class _Record(msgspec.Struct):
    """One line of `context_record`."""

    type: str
    payload: dict[str, Any]
    request_id: str
    timestamp: float


def telemetry_of(line: bytes) -> Telemetry:
    """Read back what `context_record` wrote, as a server streams it."""
    record = msgspec.json.decode(line, type=_Record)
    where: dict[str, Any] = {"request_id": record.request_id, "at": record.timestamp}
    try:
        if record.type == "request.progress":
            return msgspec.convert({**record.payload, **where}, Progress)
        if record.type == "request.log":
            return msgspec.convert({**record.payload, **where}, Log)
    except msgspec.ValidationError:
        pass  # an author may emit these types with a payload of their own
    return Emitted(type=record.type, payload=record.payload, **where)
