"""What clients are shown of requests: facts of each, and the answer of those that have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.scheduler.api.values import RequestFacts

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.values import RequestRecord, StoredEvent

__all__ = ["MAX_OUTPUT_BYTES", "answer_of", "facts_of", "shown"]

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
"""Of a streamed output that is shown as a whole; a longer one is read as events."""
_MAX_RECORDS_BYTES = 1024 * 1024
_NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode


def facts_of(record: RequestRecord) -> bytes:
    """Return what is known of a request, as a JSON object without its id and its answer."""
    return _encode(_facts(record))


def shown(record: RequestRecord, position: int | None = None, waits_for: str = "") -> bytes:
    """Return what a listing shows of a request, as a JSON object.

    Args:
        record: The request.
        position: How many have their turn before.
        waits_for: Why the first of them waits.
    """
    ending = record.ending
    failure = None if ending is None else ending.failure
    error_type = "" if failure is None else failure.error_type
    facts = _encode(_facts(record, error_type, position, waits_for))
    return b'{"request_id":%b,%b' % (_encode(record.request_id), facts[1:])


async def answer_of(
    ledger: Ledger, record: RequestRecord, last: StoredEvent | None = None
) -> bytes:
    """Return the body of `GET /v1/requests/{id}`.

    Args:
        ledger: Has its events.
        record: The request.
        last: Its last event, where that is known; it is read otherwise.
    """
    if record.ending is None:
        return shown(record)
    if last is None:
        found = await ledger.events(record.seq, after=record.last_event_id - 1)
        if not found:  # it was forgotten since its record was read
            return shown(record)
        last = found[-1]
    data = last.data
    if record.last_event_id > 1 or record.ending.is_streamed:
        data = await _with_what_came_before(ledger, record, data)
    return b"%b,%b" % (data[:-1], facts_of(record)[1:])


async def _with_what_came_before(ledger: Ledger, record: RequestRecord, data: bytes) -> bytes:
    """Return an answer with its items and with what the handler reported."""
    assert record.ending is not None
    collected = _Collected()
    after, end = 0, record.last_event_id - 1
    while after < end:
        events = await ledger.events(record.seq, after=after)
        if not events:
            break
        for event in events:
            if event.event_id <= end:
                collected.take(event)
        after = events[-1].event_id
    answer: dict[str, msgspec.Raw] = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    answer["events"] = msgspec.Raw(b"[%b]" % b",".join(collected.records))
    if record.ending.is_streamed:
        is_whole = collected.items is not None
        answer["output"] = msgspec.Raw(b"[%b]" % b",".join(collected.items or ()))
        if not is_whole:
            answer |= {"output": _NULL, "output_too_large": msgspec.Raw(b"true")}
    return _encode(answer)


class _Collected:
    """What a request has produced, as far as it is shown at once."""

    def __init__(self) -> None:
        self.items: list[bytes] | None = []
        """Of its output; None when they are too large."""
        self.records: list[bytes] = []
        self._items_bytes = 0
        self._records_bytes = 0

    def take(self, event: StoredEvent) -> None:
        if event.name == b"delta":
            self._items_bytes += len(event.data)
            if self._items_bytes > MAX_OUTPUT_BYTES:
                self.items = None
            elif self.items is not None:
                self.items.append(event.data)
        elif event.name == b"restarted":  # what was streamed before is taken back
            self.items, self._items_bytes = [], 0
        elif self._records_bytes < _MAX_RECORDS_BYTES:
            self.records.append(event.data)
            self._records_bytes += len(event.data)


def _facts(
    record: RequestRecord,
    error_type: str = "",
    position: int | None = None,
    waits_for: str = "",
) -> RequestFacts:
    return RequestFacts(
        record.status,
        record.function,
        record.endpoint,
        record.tag,
        record.owner,
        record.release_id,
        record.created_at,
        record.last_event_id,
        record.attempt,
        record.priority,
        record.timeout_ms,
        record.deadline_at,
        record.worker_id,
        record.started_at,
        record.ended_at,
        error_type,
        position,
        waits_for,
    )
