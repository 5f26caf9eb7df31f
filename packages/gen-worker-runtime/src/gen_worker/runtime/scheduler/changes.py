"""What a batch of operations makes of the requests it touches: decided first, written after.

Pure: a `Draft` is given the records of those requests, and tells afterwards what is to be written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import replace

from gen_worker.errors import DuplicateRequestError, ValidationError
from gen_worker.runtime.scheduler.errors import KeyConflictError
from gen_worker.runtime.scheduler.schema import EVENT_BITS, MAX_EVENTS
from gen_worker.runtime.scheduler.values import (
    NewEvent,
    RequestRecord,
    Requeued,
    StoredEvent,
    Submitted,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from gen_worker.runtime.scheduler.values import Ending, Submission

__all__ = [
    "Append",
    "Assign",
    "Draft",
    "End",
    "Flush",
    "Operation",
    "Requeue",
    "Submit",
    "Transact",
    "may_be_tried_again",
    "require_same",
]


class Submit(NamedTuple):
    submission: Submission


class Assign(NamedTuple):
    seq: int
    worker_id: str
    """Empty: no worker has it any more."""
    attempt: int
    at: float
    """Unix time: it is written later."""


class Append(NamedTuple):
    seq: int
    events: Sequence[NewEvent]


class End(NamedTuple):
    seq: int
    ending: Ending
    event: NewEvent
    assigned: Assign | None = None
    """Who ran it, in case that found no room when it was to be written."""


class Requeue(NamedTuple):
    seq: int
    attempt: int
    due_at: float


class Flush(NamedTuple):
    """Only waits for those before it."""


class Transact(NamedTuple):
    """Anything else, inside of the batch's transaction: it sees what the batch makes of requests.

    It is called again when the batch is written again, and its own changes are taken back when it
    raises.
    """

    change: Callable[[sqlite3.Connection, float], Any]
    """Given the connection that writes, and the Unix time."""


Operation = Submit | Assign | Append | End | Requeue | Flush | Transact


class Draft:
    """What is to be written of one batch."""

    def __init__(self, records: Iterable[RequestRecord], *, next_seq: int, now: float) -> None:
        """Begin a batch.

        Args:
            records: Of all requests that its operations name, as far as there are any.
            next_seq: What the next new request is numbered.
            now: Unix time.
        """
        self.next_seq = next_seq
        self.new: dict[int, Submission] = {}
        """By seq."""
        self.changed: set[int] = set()
        """Requests that were there before, by seq."""
        self.ended: list[int] = []
        """Requests that end with this batch, by seq."""
        self.events: list[tuple[int, bytes, bytes]] = []
        """Key, name and data of each."""
        self._now = now
        self._by_seq: dict[int, RequestRecord] = {}
        self._by_id: dict[str, int] = {}
        self._by_key: dict[tuple[str, str], int] = {}
        for record in records:
            self._note(record)

    def __getitem__(self, seq: int) -> RequestRecord:
        return self._by_seq[seq]

    def apply(self, operation: Operation) -> object:
        """Take one operation, and return what it comes to.

        Raises:
            DuplicateRequestError: The id of a new request is another one's, or its key is.
            ValidationError: A request has produced too many events.
        """
        return _DECISIONS[type(operation)](self, *operation)

    def _note(self, record: RequestRecord) -> None:
        self._by_seq[record.seq] = record
        self._by_id[record.request_id] = record.seq
        if record.key:
            self._by_key[record.owner, record.key] = record.seq

    def _change(self, record: RequestRecord) -> None:
        self._by_seq[record.seq] = record
        if record.seq not in self.new:
            self.changed.add(record.seq)

    def _unfinished(self, seq: int) -> RequestRecord | None:
        record = self._by_seq.get(seq)
        return record if record is not None and record.ended_at is None else None

    # -- operations --------------------------------------------------------------------------------

    def _submit(self, submission: Submission) -> Submitted:
        known = self._by_key.get((submission.owner, submission.key)) if submission.key else None
        if known is not None:
            earlier = self._by_seq[known]
            if not may_be_tried_again(earlier):
                require_same(earlier, submission.key, submission.digest)
                return Submitted(earlier, is_new=False)
        if submission.request_id in self._by_id:
            raise DuplicateRequestError(
                f"there is a request {submission.request_id!r} already: give each its own id"
            )
        if known is not None:
            self._change(replace(self._by_seq[known], key=""))
        record = _begun(submission, self.next_seq, self._now)
        self.next_seq += 1
        self._note(record)
        self.new[record.seq] = submission
        return Submitted(record, is_new=True)

    def _assign(self, seq: int, worker_id: str, attempt: int, at: float) -> None:
        record = self._unfinished(seq)
        if record is None or record.attempt != attempt:
            return
        if worker_id:
            record = replace(record, status="running", worker_id=worker_id, started_at=at)
        else:
            record = replace(record, status="queued", worker_id="", started_at=None)
        self._change(record)

    def _append(self, seq: int, events: Iterable[NewEvent]) -> tuple[StoredEvent, ...]:
        record = self._unfinished(seq)
        if record is None:
            return ()
        sequence = record.last_sequence
        fresh: list[NewEvent] = []
        for event in events:
            if event.attempt not in (0, record.attempt) or 0 < event.sequence <= sequence:
                continue  # of an attempt that is over, or said before
            sequence = event.sequence or sequence
            fresh.append(event)
        if not fresh:
            return ()
        if record.last_event_id + len(fresh) > MAX_EVENTS:
            raise ValidationError(
                f"{record.request_id!r} has produced {record.last_event_id} events, at most "
                f"{MAX_EVENTS} are kept: let the function yield larger items"
            )
        return self._store(replace(record, last_sequence=sequence), fresh)

    def _end(
        self, seq: int, ending: Ending, event: NewEvent, assigned: Assign | None
    ) -> StoredEvent | None:
        record = self._unfinished(seq)
        if record is None:
            return None
        if (
            assigned is not None
            and record.started_at is None
            and assigned.attempt == record.attempt
        ):
            record = replace(record, worker_id=assigned.worker_id, started_at=assigned.at)
        is_late = ending.attempt not in (0, record.attempt)
        if is_late and ending.is_streamed:
            return None  # its output was taken back when the next attempt was made
        self.ended.append(seq)
        ended = replace(record, status=ending.status, ended_at=self._now, ending=ending)
        return self._store(ended, (event,))[0]

    def _requeue(self, seq: int, attempt: int, due_at: float) -> Requeued | None:
        record = self._unfinished(seq)
        if record is None or record.attempt != attempt:
            return None
        again = replace(
            record,
            status="queued",
            attempt=attempt + 1,
            worker_id="",
            started_at=None,
            due_at=due_at,
            last_sequence=0,
        )
        if not record.last_sequence:
            self._change(again)
            return Requeued(again.attempt, None)
        data = msgspec.json.encode({"attempt": again.attempt})
        return Requeued(again.attempt, self._store(again, (NewEvent(b"restarted", data),))[0])

    def _flush(self) -> None:
        pass

    def _transact(self, change: object) -> None:
        """Nothing of a request changes; the journal calls it when the requests are written."""

    def _store(self, record: RequestRecord, events: Sequence[NewEvent]) -> tuple[StoredEvent, ...]:
        first = record.last_event_id + 1
        base = record.seq << EVENT_BITS
        stored = tuple(
            StoredEvent(event_id, event.name, event.data)
            for event_id, event in enumerate(events, first)
        )
        self.events += ((base + event.event_id, event.name, event.data) for event in stored)
        size_bytes = record.size_bytes + sum(len(event.data) for event in stored)
        last_event_id = record.last_event_id + len(stored)
        self._change(replace(record, last_event_id=last_event_id, size_bytes=size_bytes))
        return stored


def _begun(submission: Submission, seq: int, now: float) -> RequestRecord:
    return RequestRecord(
        seq,
        submission.request_id,
        submission.owner,
        submission.endpoint,
        submission.function,
        submission.tag,
        submission.release_id,
        submission.key,
        submission.digest,
        submission.priority,
        submission.timeout_ms,
        submission.deadline_at,
        now,  # created_at
        "queued",
        1,  # attempt
        "",  # worker_id
        None,  # started_at
        now,  # due_at
        0,  # last_event_id
        0,  # last_sequence
        len(submission.payload) + len(submission.options),
        None,  # ended_at
        None,  # ending
    )


def may_be_tried_again(record: RequestRecord) -> bool:
    """Return whether the next request with the same key takes the key over."""
    ending = record.ending
    return ending is not None and ending.failure is not None and ending.failure.retryable


def require_same(record: RequestRecord, key: str, digest: bytes) -> None:
    """Refuse to take a request for the one that has its key.

    Raises:
        KeyConflictError: It is another.
    """
    if record.digest != digest:
        raise KeyConflictError(
            f"the key {key!r} belongs to another request: give each its own key",
            request_id=record.request_id,
        )


# By class: a `match` tries one after the other, and costs as much as the rest of a submission.
_DECISIONS: dict[type, Callable[..., object]] = {
    Submit: Draft._submit,
    Assign: Draft._assign,
    Append: Draft._append,
    End: Draft._end,
    Requeue: Draft._requeue,
    Flush: Draft._flush,
    Transact: Draft._transact,
}
