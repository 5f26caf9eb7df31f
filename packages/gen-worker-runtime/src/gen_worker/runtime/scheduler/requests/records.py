"""What a request's record is after each thing that happens to it; the ledger's does the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.runtime.scheduler.values import (
        Ending,
        NewEvent,
        RequestRecord,
        Requeued,
        StoredEvent,
    )

__all__ = ["ended", "grown", "requeued", "running", "waiting"]


def running(record: RequestRecord, worker_id: str, now: float) -> RequestRecord:
    """A worker was given it."""
    return replace(record, status="running", worker_id=worker_id, started_at=now)


def waiting(record: RequestRecord) -> RequestRecord:
    """No worker has it."""
    return replace(record, status="queued", worker_id="", started_at=None)


def grown(
    record: RequestRecord, events: Sequence[NewEvent], stored: Sequence[StoredEvent]
) -> RequestRecord:
    """It has produced something, some of which was new."""
    sequences = (event.sequence for event in events if event.attempt == record.attempt)
    return _longer(replace(record, last_sequence=max(record.last_sequence, *sequences, 0)), stored)


def requeued(record: RequestRecord, again: Requeued, due_at: float) -> RequestRecord:
    """An attempt is over, and the next waits."""
    later = replace(waiting(record), attempt=again.attempt, due_at=due_at, last_sequence=0)
    return later if again.event is None else _longer(later, (again.event,))


def ended(record: RequestRecord, ending: Ending, event: StoredEvent, now: float) -> RequestRecord:
    """It has ended."""
    over = replace(record, status=ending.status, ended_at=now, ending=ending)
    return _longer(over, (event,))


def _longer(record: RequestRecord, stored: Sequence[StoredEvent]) -> RequestRecord:
    return replace(
        record,
        last_event_id=stored[-1].event_id,
        size_bytes=record.size_bytes + sum(len(event.data) for event in stored),
    )
