"""Who asks, and what each may do."""

from __future__ import annotations

from hmac import compare_digest
from typing import Literal, Protocol, get_args

import msgspec

__all__ = [
    "ADMIN",
    "ANY",
    "DEPLOY",
    "EVERYBODY",
    "INVOKE",
    "INVOKE_OR_READ",
    "READ",
    "READ_OR_DEPLOY",
    "SCOPES",
    "SEE_RELEASES",
    "WORKER",
    "Credentials",
    "OneToken",
    "Principal",
    "Scope",
    "ScopeSet",
]

Scope = Literal["invoke", "read", "deploy", "worker", "admin"]
"""`invoke` makes requests and follows them, `read` looks, `deploy` publishes releases and moves
tags, `worker` starts workers of releases, `admin` does everything."""

SCOPES: tuple[Scope, ...] = get_args(Scope)

ScopeSet = tuple[Scope, ...]
"""Of which one is enough; nothing is asked for where there is none."""

ANY: ScopeSet = SCOPES
INVOKE: ScopeSet = ("invoke",)
READ: ScopeSet = ("read",)
INVOKE_OR_READ: ScopeSet = ("invoke", "read")
READ_OR_DEPLOY: ScopeSet = ("read", "deploy")
DEPLOY: ScopeSet = ("deploy",)
WORKER: ScopeSet = ("worker",)
SEE_RELEASES: ScopeSet = ("read", "deploy", "worker")
ADMIN: ScopeSet = ("admin",)


class Principal(msgspec.Struct, frozen=True):
    """Whoever asks."""

    scopes: frozenset[Scope]
    owner: str | None = None
    """Whose requests it makes, and all that it sees; None: anybody's."""
    name: str = ""
    """For the records of what is changed."""

    def may(self, scopes: ScopeSet) -> bool:
        """Tell whether any of these scopes is granted."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)

    def may_act_for(self, owner: str | None) -> bool:
        """Tell whether an owner's requests and releases are this one's business."""
        return self.owner is None or owner == self.owner or "admin" in self.scopes


EVERYBODY = Principal(frozenset(SCOPES))
"""Whoever asks a host without credentials."""


class Credentials(Protocol):
    """The tokens of a host."""

    def principal(self, token: bytes) -> Principal | None:
        """Return who has a token; None when it is not valid.

        Called on the loop for each request, so it must not block. How long it takes must not
        depend on how much of a token is right.
        """
        ...


class OneToken:
    """One token that may do everything."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def principal(self, token: bytes) -> Principal | None:
        return EVERYBODY if compare_digest(token, self._token) else None
