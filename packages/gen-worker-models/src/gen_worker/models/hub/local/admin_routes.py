"""What only the hub's administrator may ask: tokens for others, and a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.models.hub.local.asgi import Answer
from gen_worker.models.hub.local.collection import collect
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.requests import SweepBody, TokenBody
from gen_worker.models.hub.local.routing import Route
from gen_worker.models.hub.local.tokens import SCOPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.hub.local.asgi import Call
    from gen_worker.models.hub.local.rooms import Rooms

__all__ = ["AdminRoutes"]


class AdminRoutes:
    """Manages a hub that runs."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def table(self) -> Sequence[Route]:
        return (
            Route("POST", "/api/v1/tokens", "admin", self.issue),
            Route("POST", "/api/v1/gc", "admin", self.sweep),
        )

    def issue(self, call: Call) -> Answer:
        body = call.read(TokenBody)
        unknown = sorted(set(body.scopes) - set(SCOPES))
        is_one = (body.capability is None) == bool(body.scopes)
        if unknown or not is_one or not 0 < body.ttl_s < 1e10:
            raise Refusal(
                400,
                "invalid_token",
                f"give scopes of {', '.join(SCOPES)}, or a capability, and a ttl_s above 0",
            )
        claims: dict[str, Any] = {"scopes": list(body.scopes)}
        if body.capability is not None:
            claims = body.capability.claims()
        token = self._rooms.tokens.issue(subject=body.subject, ttl_s=body.ttl_s, claims=claims)
        return Answer({"token": token}, status=201)

    def sweep(self, call: Call) -> Answer:
        body, rooms = call.read(SweepBody), self._rooms
        done = collect(
            rooms.database,
            rooms.blobs,
            rooms.uploads,
            now=rooms.now,
            older_than_s=max(body.older_than_s, 0.0),
            untagged=body.untagged,
        )
        return Answer(done)
