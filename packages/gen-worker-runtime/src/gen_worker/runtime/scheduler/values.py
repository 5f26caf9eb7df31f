"""What the scheduler knows of a request, as it is on disk."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from gen_worker.errors import Failure
from gen_worker.events import Timings
from gen_worker.runtime.http.jobs import Status as RequestStatus

__all__ = [
    "EndStatus",
    "Ending",
    "NewEvent",
    "RequestFilter",
    "RequestPage",
    "RequestRecord",
    "RequestStatus",
    "Requeued",
    "StoredCall",
    "StoredEvent",
    "Submission",
    "Submitted",
]

EndStatus = Literal["succeeded", "failed", "canceled"]


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its client asked for it."""

    request_id: str
    owner: str = ""
    endpoint: str = ""
    function: str
    tag: str = ""
    release_id: str = ""
    key: str = ""
    """The client's `Idempotency-Key`; two requests of one owner with the same key are one."""
    digest: bytes = b""
    """Of all that makes two requests with the same key the same."""
    priority: int = 0
    timeout_ms: int | None = None
    deadline_at: float | None = None
    """Unix time by which it has to have ended."""
    payload: bytes
    options: bytes = b""
    """What else a worker is to be told, as whoever submits has written it."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended."""

    status: EndStatus
    failure: Failure | None = None
    """None when it succeeded."""
    timings: Timings = Timings()
    is_streamed: bool = False
    """Whether its output is what it streamed."""
    attempt: int = 0
    """The attempt that brought it about; 0 when none did, such as a cancel or a deadline."""


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """All that is known of a request but its payload and its events. Times are Unix times.

    A row of the database is one, by position: made with names it takes several times as long.
    """

    seq: int
    """Its number in the ledger; requests that were submitted later have greater ones."""
    request_id: str
    owner: str
    endpoint: str
    function: str
    tag: str
    release_id: str
    key: str
    """Empty also when a later request has taken the key over."""
    digest: bytes
    priority: int
    timeout_ms: int | None
    deadline_at: float | None
    created_at: float
    status: RequestStatus
    attempt: int
    """Which attempt waits or runs, or was the last; the first is 1."""
    worker_id: str
    """Of this attempt; empty while it waits."""
    started_at: float | None
    """When this attempt was given to its worker."""
    due_at: float
    """An attempt that waits is not to begin before."""
    last_event_id: int
    last_sequence: int
    """Of this attempt's streamed output."""
    size_bytes: int
    """Of payload, options and events."""
    ended_at: float | None
    ending: Ending | None


class Submitted(NamedTuple):
    """What became of a submission."""

    record: RequestRecord
    is_new: bool
    """False: an earlier request has the same key, and this is it."""


class StoredCall(NamedTuple):
    """What a worker is given of a request."""

    payload: bytes
    options: bytes


class NewEvent(NamedTuple):
    """Something a request produced."""

    name: bytes
    """`delta`, `event`, `progress`, `result`, `error` or `restarted`."""
    data: bytes
    """JSON on one line."""
    attempt: int = 0
    """Which attempt produced it; 0 when none did."""
    sequence: int = 0
    """Of an item of a streamed output, from 1 in each attempt; 0 for everything else."""


class StoredEvent(NamedTuple):
    """The same with its number."""

    event_id: int
    """From 1 in each request, without gaps."""
    name: bytes
    data: bytes


class Requeued(NamedTuple):
    """A request that waits again."""

    attempt: int
    """The one that waits."""
    event: StoredEvent | None
    """`restarted`, which takes back the output of the attempt before; None when it had none."""


class RequestFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests to list; what is None does not matter."""

    owner: str | None = None
    endpoint: str | None = None
    function: str | None = None
    tag: str | None = None
    release_id: str | None = None
    worker_id: str | None = None
    status: RequestStatus | None = None


class RequestPage(NamedTuple):
    """Requests, the latest first."""

    records: tuple[RequestRecord, ...]
    before: int
    """What to ask for next; 0 when there are no more. A page may be short, or empty, before."""
