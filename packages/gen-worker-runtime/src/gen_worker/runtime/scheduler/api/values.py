"""What the scheduler's routes take and answer; openapi.json describes them from here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from gen_worker.runtime.http.credentials import Scope
from gen_worker.runtime.scheduler.fleet.views import DeviceView, ModelView
from gen_worker.runtime.scheduler.releases.values import DEFAULT_TAG, Move, TagAction
from gen_worker.runtime.scheduler.values import RequestStatus

__all__ = [
    "SCHEMAS",
    "DemandList",
    "DemandRow",
    "Draining",
    "IssuedTokenRow",
    "ModelList",
    "NewToken",
    "NewWorker",
    "PublishedRow",
    "ReleaseList",
    "ReleaseRow",
    "RequestFacts",
    "RequestList",
    "RequestRow",
    "Revoked",
    "TagChangeList",
    "TagChangeRow",
    "TagList",
    "TagMove",
    "TagMoved",
    "TagRow",
    "TokenList",
    "TokenRow",
    "WorkerDrain",
    "WorkerList",
    "WorkerRow",
    "WorkerTicket",
    "schema_of",
]

_Name = Annotated[str, msgspec.Meta(max_length=512)]
_Reason = Annotated[str, msgspec.Meta(max_length=2000)]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix times."""


class RequestFacts(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is known of a request, without its answer; what is left out is empty, null or 0."""

    status: RequestStatus
    function: str
    endpoint: str
    tag: str
    owner: str
    release_id: str
    created_at: float
    """Unix time, as the other times."""
    last_event_id: int
    attempt: int
    priority: int = 0
    timeout_ms: int | None = None
    deadline_at: float | None = None
    worker_id: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    error_type: str = ""
    position: int | None = None
    """How many have their turn before."""
    waits_for: str = ""
    """Why the first of them waits; shown of one request."""


class RequestRow(RequestFacts, frozen=True, kw_only=True):
    """A request as a listing shows it."""

    request_id: str


class RequestList(Row, frozen=True, kw_only=True):
    """The latest come first. A page may be short, or empty, before the last one."""

    requests: list[RequestRow]
    next: str | None
    """What to give as `cursor` for the next page; null when there is none."""


class WorkerRow(Row, frozen=True, kw_only=True):
    worker_id: str
    owner: str = ""
    endpoint: str = ""
    release_id: str
    state: str
    functions: tuple[str, ...]
    loading: tuple[str, ...]
    unavailable: dict[str, str]
    """By function, why it cannot run there."""
    devices: tuple[DeviceView, ...]
    running: tuple[str, ...]
    """Ids of requests."""
    models: dict[str, str]
    """By ref, where it is: `vram`, `ram` or `disk`."""
    heard_at: float
    joined_at: float
    peer: str = ""


class WorkerList(Row, frozen=True, kw_only=True):
    workers: list[WorkerRow]


class WorkerDrain(msgspec.Struct, frozen=True, kw_only=True):
    deadline_ms: Annotated[int, msgspec.Meta(ge=0, le=7 * 24 * 3_600_000)] = 0
    """After which it ends in any case; 0 waits for all it has."""
    reason: Annotated[str, msgspec.Meta(max_length=500)] = "operator"


class Draining(Row, frozen=True, kw_only=True):
    worker_id: str
    draining: bool


class ModelList(Row, frozen=True, kw_only=True):
    models: tuple[ModelView, ...]


class DemandRow(Row, frozen=True, kw_only=True):
    """What is wanted of one release, for whoever starts workers."""

    owner: str
    endpoint: str
    release_id: str
    environment: str
    tags: tuple[str, ...]
    waiting: int
    running: int
    oldest_wait_s: float | None
    """Null when nobody waits."""
    workers: int
    """That are connected, whatever they are doing."""


class DemandList(Row, frozen=True, kw_only=True):
    releases: list[DemandRow]


class NewWorker(msgspec.Struct, frozen=True, kw_only=True):
    """Which release a worker is for: by its id, or by a tag."""

    owner: _Name = ""
    endpoint: _Name = ""
    release_id: _Name = ""
    tag: _Name = DEFAULT_TAG
    worker_id: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._-]{0,128}$")] = ""
    """Empty makes one that no other worker has."""
    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=365 * 24 * 3600)] | None = None
    """None is as long as the scheduler's settings say."""


class WorkerTicket(Row, frozen=True, kw_only=True):
    """What a worker is started with; its folders are paths on the scheduler's machine."""

    token: str
    worker_id: str
    address: str
    """Where workers connect to."""
    owner: str
    endpoint: str
    release_id: str
    environment: str
    source: str
    lock: str
    hub: str


class ReleaseRow(Row, frozen=True, kw_only=True):
    owner: str
    endpoint: str
    release_id: str
    created_at: float
    created_by: str
    environment: str
    functions: tuple[str, ...]
    tags: tuple[str, ...]
    source: str | None = None
    """Folder that its workers run in; shown to who may start them, of one release."""
    lock: str | None = None


class ReleaseList(Row, frozen=True, kw_only=True):
    """The latest come first."""

    releases: list[ReleaseRow]


class TagChangeRow(Row, frozen=True, kw_only=True):
    number: int
    owner: str
    endpoint: str
    tag: str
    action: TagAction
    changed_at: float
    changed_by: str
    reason: str
    moves: tuple[Move, ...]


class TagMoved(Row, frozen=True, kw_only=True):
    change: TagChangeRow | None
    """Null: the tag points there already."""
    moves: tuple[Move, ...]
    """The change's own."""


class TagChangeList(Row, frozen=True, kw_only=True):
    changes: list[TagChangeRow]


class PublishedRow(ReleaseRow, frozen=True, kw_only=True):
    is_new: bool
    """False: the endpoint has the same release already."""
    change: TagChangeRow | None
    """The tag that was set because it is the endpoint's first release."""


class TagRow(Row, frozen=True, kw_only=True):
    owner: str
    endpoint: str
    tag: str
    function: str
    release_id: str


class TagList(Row, frozen=True, kw_only=True):
    tags: list[TagRow]


class TagMove(msgspec.Struct, frozen=True, kw_only=True):
    action: TagAction
    owner: _Name = ""
    endpoint: _Name
    tag: _Name = DEFAULT_TAG
    release_id: _Name = ""
    """Where to; only with `promote`."""
    function: _Name = ""
    """Only this one's; empty means all."""
    reason: _Reason = ""
    by: _Name = ""
    """Who moves it, where the token has no name."""


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    scopes: tuple[Scope, ...]
    owner: _Name | None = None
    """Whose requests and releases it is for; null: anybody's."""
    name: Annotated[str, msgspec.Meta(max_length=200)] = ""


class TokenRow(Row, frozen=True, kw_only=True):
    token_id: str
    name: str
    scopes: tuple[Scope, ...]
    owner: str | None
    created_at: float
    created_by: str
    used_on: str | None
    """Day, as `2030-01-31`."""
    revoked_at: float | None


class IssuedTokenRow(TokenRow, frozen=True, kw_only=True):
    token: str
    """Shown this once."""


class TokenList(Row, frozen=True, kw_only=True):
    tokens: list[TokenRow]


class Revoked(Row, frozen=True, kw_only=True):
    token_id: str
    revoked: Literal[True] = True


_TYPES = (
    RequestList,
    WorkerList,
    WorkerDrain,
    Draining,
    ModelList,
    DemandList,
    NewWorker,
    WorkerTicket,
    ReleaseRow,
    ReleaseList,
    PublishedRow,
    TagList,
    TagMove,
    TagMoved,
    TagChangeRow,
    TagChangeList,
    NewToken,
    IssuedTokenRow,
    TokenList,
    Revoked,
)
_REFERENCE = "#/components/schemas/{name}"
_schemas, SCHEMAS = msgspec.json.schema_components(_TYPES, ref_template=_REFERENCE)
"""JSON Schemas by name, for `HttpRoute.schemas`."""
_BY_TYPE: dict[type, dict[str, Any]] = dict(zip(_TYPES, _schemas, strict=True))


def schema_of(kind: type) -> dict[str, Any]:
    """Return a reference to the schema of a record."""
    return _BY_TYPE[kind]
