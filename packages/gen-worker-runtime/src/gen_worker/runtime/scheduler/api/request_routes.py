"""The listing of requests, with filters and with their places in the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from gen_worker.models.hub.local.asgi import Answer
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.credentials import INVOKE_OR_READ
from gen_worker.runtime.http.openapi import in_query, operation
from gen_worker.runtime.http.table import HttpRoute
from gen_worker.runtime.http.targets import parse_target
from gen_worker.runtime.scheduler.api.access import count_of, number_of, owner_to_see
from gen_worker.runtime.scheduler.api.bodies import shown
from gen_worker.runtime.scheduler.api.values import SCHEMAS, RequestList, schema_of
from gen_worker.runtime.scheduler.values import RequestFilter, RequestStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gen_worker.runtime.http.table import HttpCall
    from gen_worker.runtime.scheduler.api.shelf import Shelf
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests import Requests
    from gen_worker.runtime.scheduler.values import RequestRecord

__all__ = ["RequestRoutes"]

_LIMIT = 100
_MAX_LIMIT = 1000
_MAX_POSITIONS = 100
"""Of one page: each takes as long as there are owners who wait."""
_FILTERS = ("endpoint", "function", "tag", "release_id", "worker_id")
_STATUSES: tuple[RequestStatus, ...] = get_args(RequestStatus)


class RequestRoutes:
    """`GET /v1/requests`."""

    def __init__(self, ledger: Ledger, requests: Requests, shelf: Shelf) -> None:
        self._ledger = ledger
        self._requests = requests
        self._shelf = shelf

    def table(self) -> Iterator[HttpRoute]:
        text = {"type": "string"}
        described = operation(
            "list-requests",
            "requests, the latest first",
            answer=schema_of(RequestList),
            parameters=[
                *(in_query(name, text) for name in ("owner", *_FILTERS)),
                in_query("status", {"enum": list(_STATUSES)}),
                in_query("limit", {"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT}),
                in_query("cursor", text),
            ],
        )
        yield HttpRoute(
            "GET HEAD",
            "/v1/requests",
            INVOKE_OR_READ,
            self.list,
            is_stream=True,
            operation=described,
            schemas=SCHEMAS,
        )

    async def list(self, call: HttpCall) -> Answer:
        status = call.query.get("status") or None
        if status is not None and status not in _STATUSES:
            raise Refusal(400, "invalid_status", f"`status` is one of {', '.join(_STATUSES)}")
        fields, releases = await self._named(call.query)
        owner = owner_to_see(call.caller, call.query.get("owner"))
        wanted = RequestFilter(owner=owner, status=status, **fields)
        limit = count_of(call, "limit", default=_LIMIT, most=_MAX_LIMIT)
        page = await self._ledger.page(wanted, before=number_of(call, "cursor"), limit=limit)
        following = b'"%d"' % page.before if page.before else b"null"
        records = page.records
        if releases is not None:
            records = tuple(record for record in records if record.release_id in releases)
        rows = b",".join(self._rows(records))
        body = b'{"requests":[%b],"next":%b}' % (rows, following)
        return Answer(body, content_type="application/json")

    async def _named(self, query: Mapping[str, str]) -> tuple[dict[str, str], set[str] | None]:
        """Return the fields that are asked for, and the releases where a name has their owner.

        `function` may be as callers write it, `[[owner/]endpoint/]function[:tag]`.

        Raises:
            Refusal: 400, it says another endpoint or tag than the other filters.
        """
        fields = {name: query[name] for name in _FILTERS if query.get(name)}
        if "function" not in fields:
            return fields, None
        target = parse_target(fields["function"])
        named = {"endpoint": target.endpoint, "tag": target.tag}
        for name, value in named.items():
            if value and fields.get(name, value) != value:
                raise Refusal(400, f"invalid_{name}", f"`function` and `{name}` say two of them")
        fields |= {name: value for name, value in named.items() if value}
        fields["function"] = target.function
        if not target.owner:
            return fields, None
        found = await self._shelf.releases(target.owner, target.endpoint)
        return fields, {one.release_id for one in found}

    def _rows(self, records: Sequence[RequestRecord]) -> Iterator[bytes]:
        left = _MAX_POSITIONS
        for record in records:
            position = None
            if record.ending is None and left:
                live = self._requests.by_seq(record.seq)
                record = live.record if live is not None else record
                if record.status == "queued":
                    position = self._requests.position(record.request_id)
                    left -= 1
            yield shown(record, position)
