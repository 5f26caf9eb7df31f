"""What callers may ask of their webhooks: what became of each, and what they are signed with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.hub.local.asgi import Answer
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.credentials import ADMIN, INVOKE, INVOKE_OR_READ
from gen_worker.runtime.http.openapi import in_query, operation
from gen_worker.runtime.http.table import HttpRoute
from gen_worker.runtime.scheduler.api.access import owner_to_see
from gen_worker.runtime.scheduler.webhooks.values import DeliveryState, WebhookEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.runtime.http.table import HttpCall
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.webhooks.secrets import WebhookSecrets
    from gen_worker.runtime.scheduler.webhooks.values import Delivery
    from gen_worker.runtime.scheduler.webhooks.webhooks import Webhooks

__all__ = ["DeliveryList", "DeliveryRow", "OwnSecrets", "Rotated", "WebhookRoutes"]


class DeliveryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a request, on its way. Times are Unix times."""

    event: WebhookEvent
    webhook_id: str
    url: str
    """Without what is behind its `?`."""
    state: DeliveryState
    attempts: int
    happened_at: float | None
    next_at: float | None
    last_at: float | None
    last_status: int | None
    """Null when nobody answered."""
    last_error: str


class DeliveryList(msgspec.Struct, frozen=True, kw_only=True):
    deliveries: list[DeliveryRow]


class OwnSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """The newest first; each webhook is signed with all of them."""

    owner: str
    secrets: tuple[str, ...]


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    rotated: bool = True


_TYPES = (DeliveryList, OwnSecrets, Rotated)
_schemas, _SCHEMAS = msgspec.json.schema_components(
    _TYPES, ref_template="#/components/schemas/{name}"
)
_BY_TYPE: dict[type, dict[str, Any]] = dict(zip(_TYPES, _schemas, strict=True))
_PRIVATE = {"cache-control": "no-store"}


class WebhookRoutes:
    """`/v1/requests/{id}/webhooks` and `/v1/webhooks/secrets`."""

    def __init__(self, webhooks: Webhooks, ledger: Ledger, secrets: WebhookSecrets) -> None:
        self._webhooks = webhooks
        self._ledger = ledger
        self._secrets = secrets

    def table(self) -> Iterator[HttpRoute]:
        deliveries = operation(
            "list-webhooks", "what became of a request's webhooks", answer=_BY_TYPE[DeliveryList]
        )
        shown = operation(
            "show-webhook-secrets",
            "what an owner's webhooks are signed with",
            answer=_BY_TYPE[OwnSecrets],
            parameters=[in_query("owner", {"type": "string"})],
        )
        rotated = operation(
            "rotate-webhook-secrets",
            "sign with a new secret, and until the next time with the present one too",
            answer=_BY_TYPE[Rotated],
        )
        one, secrets = "/v1/requests/{id}/webhooks", "/v1/webhooks/secrets"
        look = INVOKE_OR_READ
        yield HttpRoute("GET HEAD", one, look, self.deliveries, True, deliveries, _SCHEMAS)
        yield HttpRoute("GET HEAD", secrets, INVOKE, self.show, True, shown, _SCHEMAS)
        rotate = f"{secrets}/rotate"
        yield HttpRoute("POST", rotate, ADMIN, self.rotate, True, rotated, _SCHEMAS)

    async def deliveries(self, call: HttpCall) -> Answer:
        request_id = call.params["id"]
        record = await self._ledger.record(request_id)
        if record is None or not call.caller.may_act_for(record.owner):
            raise Refusal(404, "unknown_request", f"there is no request {request_id[:128]!r}")
        found = await self._webhooks.of(record)
        return Answer(DeliveryList(deliveries=[_row(delivery) for delivery in found]))

    async def show(self, call: HttpCall) -> Answer:
        owner = owner_to_see(call.caller, call.query.get("owner")) or ""
        secrets = await asyncio.to_thread(self._secrets.of, owner)
        return Answer(OwnSecrets(owner=owner, secrets=secrets), headers=_PRIVATE)

    async def rotate(self, _call: HttpCall) -> Answer:
        await asyncio.to_thread(self._secrets.rotate)
        return Answer(Rotated())


def _row(delivery: Delivery) -> DeliveryRow:
    return DeliveryRow(
        event=delivery.event,
        webhook_id=delivery.webhook_id,
        url=delivery.url.partition("?")[0],
        state=delivery.state,
        attempts=delivery.attempts,
        happened_at=delivery.happened_at,
        next_at=delivery.next_at if delivery.state == "pending" else None,
        last_at=delivery.last_at,
        last_status=delivery.last_status or None,
        last_error=delivery.last_error,
    )
