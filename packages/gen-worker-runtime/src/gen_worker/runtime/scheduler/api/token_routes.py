"""Tokens of callers: issued, listed, revoked."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.hub.local.asgi import Answer, read_body
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.credentials import ADMIN
from gen_worker.runtime.http.openapi import operation
from gen_worker.runtime.http.table import HttpRoute
from gen_worker.runtime.scheduler.api.values import (
    SCHEMAS,
    IssuedTokenRow,
    NewToken,
    Revoked,
    TokenList,
    TokenRow,
    schema_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.runtime.http.table import HttpCall
    from gen_worker.runtime.scheduler.tokens import TokenRecord, Tokens

__all__ = ["TokenRoutes", "fields_of"]

_MAX_BODY_BYTES = 64 * 1024
_DAY_S = 86_400


class TokenRoutes:
    """`/v1/tokens`."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def table(self) -> Iterator[HttpRoute]:
        many, one = "/v1/tokens", "/v1/tokens/{id}"
        issue = operation(
            "issue-token",
            "make a token; it is shown this once",
            "201",
            answer=schema_of(IssuedTokenRow),
            body=schema_of(NewToken),
        )
        listed = operation("list-tokens", "what is known of tokens", answer=schema_of(TokenList))
        revoke = operation("revoke-token", "have a token hold no longer", answer=schema_of(Revoked))
        yield HttpRoute("POST", many, ADMIN, self.issue, True, issue, SCHEMAS)
        yield HttpRoute("GET HEAD", many, ADMIN, self.list, True, listed, SCHEMAS)
        yield HttpRoute("DELETE", one, ADMIN, self.revoke, True, revoke, SCHEMAS)

    async def issue(self, call: HttpCall) -> Answer:
        await read_body(call, _MAX_BODY_BYTES)
        asked = call.read(NewToken)
        issued = await self._tokens.issue(
            asked.scopes, owner=asked.owner, name=asked.name, by=call.caller.name
        )
        row = IssuedTokenRow(**fields_of(issued.record), token=issued.token)
        return Answer(row, status=201, headers={"cache-control": "no-store"})

    async def list(self, _call: HttpCall) -> Answer:
        records = self._tokens.records()
        return Answer(TokenList(tokens=[TokenRow(**fields_of(record)) for record in records]))

    async def revoke(self, call: HttpCall) -> Answer:
        token_id = call.params["id"]
        if not await self._tokens.revoke(token_id):
            raise Refusal(404, "unknown_token", f"there is no token {token_id[:64]!r} that holds")
        return Answer(Revoked(token_id=token_id))


def fields_of(record: TokenRecord) -> dict[str, Any]:
    """Return what is known of a token, as it is shown."""
    fields = msgspec.structs.asdict(record)
    day = record.used_on
    if day is not None:
        when = datetime.datetime.fromtimestamp(day * _DAY_S, datetime.UTC)
        fields["used_on"] = when.date().isoformat()
    return fields
