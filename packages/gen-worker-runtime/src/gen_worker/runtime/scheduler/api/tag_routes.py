"""Tags: where they point, what moved them, and moving them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gen_worker.models.hub.local.asgi import Answer, read_body
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.credentials import DEPLOY, READ_OR_DEPLOY
from gen_worker.runtime.http.openapi import in_query, operation
from gen_worker.runtime.http.table import HttpRoute
from gen_worker.runtime.scheduler.api.access import count_of, owner_to_change, owner_to_see
from gen_worker.runtime.scheduler.api.values import (
    SCHEMAS,
    TagChangeList,
    TagChangeRow,
    TagList,
    TagMove,
    TagMoved,
    TagRow,
    schema_of,
)
from gen_worker.runtime.scheduler.releases import NoOtherReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.runtime.http.table import HttpCall
    from gen_worker.runtime.scheduler.api.shelf import Shelf
    from gen_worker.runtime.scheduler.releases import TagChange

__all__ = ["TagRoutes", "change_row"]

_LIMIT = 100
_MAX_LIMIT = 1000
_MAX_BODY_BYTES = 64 * 1024


class TagRoutes:
    """`/v1/tags`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def table(self) -> Iterator[HttpRoute]:
        text = {"type": "string"}
        names = [in_query(name, text) for name in ("owner", "endpoint", "tag")]
        limit = in_query("limit", {"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT})
        for methods, path, needs, handler, described in (
            (
                "GET HEAD",
                "/v1/tags",
                READ_OR_DEPLOY,
                self.list,
                operation(
                    "list-tags", "where tags point", answer=schema_of(TagList), parameters=names
                ),
            ),
            (
                "POST",
                "/v1/tags",
                DEPLOY,
                self.move,
                operation(
                    "move-tag",
                    "promote a release, roll back, go forward again, or remove a tag",
                    answer=schema_of(TagMoved),
                    body=schema_of(TagMove),
                ),
            ),
            (
                "GET HEAD",
                "/v1/tags/history",
                READ_OR_DEPLOY,
                self.history,
                operation(
                    "list-tag-changes",
                    "what moved tags, the latest first",
                    answer=schema_of(TagChangeList),
                    parameters=[*names, limit],
                ),
            ),
        ):
            yield HttpRoute(methods, path, needs, handler, True, described, SCHEMAS)

    async def list(self, call: HttpCall) -> Answer:
        owner = owner_to_see(call.caller, call.query.get("owner"))
        endpoint, tag = call.query.get("endpoint"), call.query.get("tag")
        rows = [
            TagRow(**target._asdict())
            for target in await self._shelf.all.tags.targets()
            if owner in (None, target.owner)
            and endpoint in (None, "", target.endpoint)
            and tag in (None, "", target.tag)
        ]
        return Answer(TagList(tags=rows))

    async def history(self, call: HttpCall) -> Answer:
        owner = owner_to_see(call.caller, call.query.get("owner"))
        limit = count_of(call, "limit", default=_LIMIT, most=_MAX_LIMIT)
        found = await self._shelf.releases(owner, call.query.get("endpoint") or None)
        tags, tag = self._shelf.all.tags, call.query.get("tag") or None
        histories = await asyncio.gather(
            *(
                tags.history(*name, tag=tag, limit=limit)
                for name in {(one.owner, one.endpoint) for one in found}
            )
        )
        changes = sorted(
            (change for history in histories for change in history),
            key=lambda change: change.number,
            reverse=True,
        )
        return Answer(TagChangeList(changes=[change_row(change) for change in changes[:limit]]))

    async def move(self, call: HttpCall) -> Answer:
        await read_body(call, _MAX_BODY_BYTES)
        asked = call.read(TagMove)
        owner = owner_to_change(call.caller, asked.owner, self._shelf.default_owner)
        try:
            change = await self._moved(asked, owner, call.caller.name or asked.by)
        except NoOtherReleaseError as error:
            name = "/".join(filter(None, (owner, asked.endpoint, asked.function)))
            raise Refusal(409, error.code, f"{name}:{asked.tag}: {error}") from error
        shown = None if change is None else change_row(change)
        return Answer(TagMoved(change=shown, moves=() if change is None else change.moves))

    async def _moved(self, asked: TagMove, owner: str, by: str) -> TagChange | None:
        tags, endpoint = self._shelf.all.tags, asked.endpoint
        if asked.action == "remove":
            return await tags.remove(owner, endpoint, asked.tag, by=by, reason=asked.reason)
        if asked.action == "promote":
            if not asked.release_id:
                raise Refusal(400, "missing_release_id", "say where the tag is to point")
            return await tags.promote(
                owner,
                endpoint,
                asked.release_id,
                tag=asked.tag,
                function=asked.function,
                by=by,
                reason=asked.reason,
            )
        move = tags.rollback if asked.action == "rollback" else tags.forward
        return await move(
            owner,
            endpoint,
            tag=asked.tag,
            function=asked.function,
            by=by,
            reason=asked.reason,
        )


def change_row(change: TagChange) -> TagChangeRow:
    """Return a change as it is shown."""
    return TagChangeRow(**change._asdict())
