"""What callers see of their webhooks, and that nobody sees another's."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gen_worker.errors import ValidationError
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.credentials import EVERYBODY, Principal
from gen_worker.runtime.scheduler.job_options import Webhook
from gen_worker.runtime.scheduler.webhooks import WebhookRoutes, WebhookSecrets

MINE = Principal(frozenset({"invoke"}), owner="acme")
OTHERS = Principal(frozenset({"invoke", "read", "deploy"}), owner="other")


async def asked(
    routes: WebhookRoutes, path: str, caller: Principal = EVERYBODY, **fields: Any
) -> Any:
    (route,) = (one for one in routes.table() if one.pattern == path)
    assert caller.may(route.needs)
    empty: dict[str, Any] = {"params": {}, "query": {}}
    answer = await route.handler(SimpleNamespace(caller=caller, **(empty | fields)))
    return msgspec.json.decode(answer.data)


async def test_what_became_of_a_request_is_shown_to_its_owner(
    open_room: Any, submission: Any, receiver: Any, secrets: WebhookSecrets
) -> None:
    path = "/v1/requests/{id}/webhooks"
    async with open_room() as room:
        routes = WebhookRoutes(room.webhooks, room.ledger, secrets)
        record = await room.submit(submission("r-1"), Webhook(url=receiver.url))
        await room.submit(submission("r-2"), None)
        await room.end(record)
        await asyncio.to_thread(receiver.next)
        one, other = {"id": "r-1"}, {"id": "r-2"}
        shown = (await asked(routes, path, MINE, params=one))["deliveries"]
        assert [row["event"] for row in shown] == ["started", "completed"]
        assert {row["url"] for row in shown} == {receiver.url.partition("?")[0]}
        assert await asked(routes, path, MINE, params=other) == {"deliveries": []}
        for caller, params in ((OTHERS, one), (MINE, {"id": "nothing"})):
            with pytest.raises(Refusal) as caught:
                await asked(routes, path, caller, params=params)
            assert caught.value.status == 404


async def test_the_secret_is_shown_to_its_owner_and_replaced_by_the_operator(
    open_room: Any, secrets: WebhookSecrets
) -> None:
    path = "/v1/webhooks/secrets"
    async with open_room() as room:
        routes = WebhookRoutes(room.webhooks, room.ledger, secrets)
        mine = await asked(routes, path, MINE)
        assert mine == {"owner": "acme", "secrets": list(secrets.of("acme"))}
        assert await asked(routes, path, query={"owner": "acme"}) == mine
        with pytest.raises(Refusal) as caught:
            await asked(routes, path, OTHERS, query={"owner": "acme"})
        assert caught.value.status == 403
        for caller in (OTHERS, EVERYBODY):
            with pytest.raises(ValidationError, match="owner"):
                await asked(routes, path, caller, query={"owner": "\udcff"})
        await asked(routes, f"{path}/rotate")
        new, old = (await asked(routes, path, MINE))["secrets"]
        assert [old] == mine["secrets"]
        assert new != old
