"""Server-sent events: what a call produces, as `text/event-stream` (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.events import Delta, Failed, Progress, Result
from gen_worker.runtime.http.answers import json_line, record_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.events import Event

__all__ = ["COMMENT", "delta_frames", "frame", "name_of"]

COMMENT = b": still running\n\n"
"""What readers ignore and proxies take as a sign of life."""

_DELTA = b"event: delta\ndata: "
_END = b"\n\n"
_BREAKS = 3  # of one event


def frame(name: bytes, data: bytes, number: int = 0) -> bytes:
    """Return one event; `data` is JSON on one line, `number` its id, if it has one."""
    if number:
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, name, data)
    return b"event: %b\ndata: %b\n\n" % (name, data)


def name_of(event: Event) -> bytes:
    """Return what an event of a call is named in a stream."""
    if isinstance(event, Delta):
        return b"delta"
    if isinstance(event, Result):
        return b"result"
    if isinstance(event, Failed):
        return b"error"
    return b"progress" if isinstance(event, Progress) else b"event"


def delta_frames(batch: Sequence[Event]) -> bytes:
    """Return what a stream shows of a batch, joined, without ids; not the outcome."""
    parts: list[bytes] = []
    deltas = 0
    for event in batch:
        # `isinstance` is quick only when it is true: it asks the metaclass of a struct otherwise.
        if isinstance(event, Delta):
            parts += (_DELTA, event.value, _END)
            deltas += 1
        elif not isinstance(event, (Result, Failed)):
            record = record_of(event)
            if record is not None:
                parts.append(frame(name_of(event), record))
    joined = b"".join(parts)
    frames = len(parts) - 2 * deltas
    if deltas and (b"\r" in joined or joined.count(b"\n") != _BREAKS * frames):
        return _careful(batch)
    return joined


def _careful(batch: Sequence[Event]) -> bytes:
    """Do the same where an author's own `msgspec.Raw` has line breaks, which would end its line."""
    found: list[bytes] = []
    for event in batch:
        if isinstance(event, Delta):
            found.append(frame(b"delta", json_line(event.value)))
        elif not isinstance(event, (Result, Failed)):
            record = record_of(event)
            if record is not None:
                found.append(frame(name_of(event), record))
    return b"".join(found)
