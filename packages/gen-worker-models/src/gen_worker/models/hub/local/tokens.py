"""Who may do what: tokens the hub signs itself, with scopes or for the repositories of one job."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from gen_worker.models.hub.capability import Capability, capability_from_claims
from gen_worker.models.hub.local.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection

    from gen_worker.models.hub.local.database import Database

__all__ = ["SCOPES", "Authority", "FileRights", "Principal", "Tokens"]

SCOPES = ("read", "write", "admin")
"""Each contains those before it."""

_ALGORITHM = "HS256"
_ISSUER = "gen-worker-hub"


class FileRights(Protocol):
    """Which files that belong to no repository the bearer of one token may touch.

    Called in the hub's threads; may block.
    """

    def may_read(self, owner: str, ref: str) -> bool: ...
    def may_write(self, owner: str, ref: str) -> bool: ...


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever sent a request."""

    subject: str = ""
    scopes: frozenset[str] = frozenset()
    capability: Capability | None = None
    files: FileRights | None = None
    """Of a job whose token says it file by file; None: those of its repositories' owners."""
    is_anonymous: bool = False

    def may(self, scope: str) -> bool:
        """Whether this scope holds for the hub as a whole."""
        return scope in self.scopes

    def may_read(self, owner: str, name: str) -> bool:
        own = self.capability
        return self.may("read") or (own is not None and own.may_read(f"{owner}/{name}"))

    def may_write(self, owner: str, name: str, *, exists: bool) -> bool:
        own = self.capability
        if self.may("write"):
            return True
        if own is None:
            return False
        return own.may_publish(f"{owner}/{name}") and (exists or own.may_create(owner, name))

    def check_owner(self, owner: str, scope: str) -> None:
        """Let a job act only for the owners of its repositories, where there is no repository.

        Raises:
            Refusal: 403.
        """
        own = self.capability
        if not self.may(scope) and (own is None or owner not in own.owners):
            raise Refusal(403, "forbidden", f"the token does not allow this for {owner!r:.120}")

    def check_file(self, owner: str, ref: str, scope: str) -> None:
        """Let a job touch only its own files and those it was given.

        Raises:
            Refusal: 403.
        """
        own = self.files
        if own is None or self.may(scope):
            self.check_owner(owner, scope)
        elif not (own.may_read if scope == "read" else own.may_write)(owner, ref):
            raise Refusal(403, "forbidden", f"the token does not allow this for {ref!r:.200}")


Authority: TypeAlias = Callable[[str], Principal | None]
"""Returns who bears a token, None when it is none of its own; a `Refusal` when it is not valid.
Called in the hub's threads."""


class Tokens:
    """Issues tokens and reads them."""

    def __init__(
        self,
        database: Database,
        key: bytes,
        *,
        now: Callable[[], float],
        anonymous: Collection[str],
        admin_token: str,
        authority: Authority | None = None,
    ) -> None:
        unknown = set(anonymous) - set(SCOPES)
        if unknown:
            raise ValueError(f"{sorted(unknown)} are no scopes: there are {', '.join(SCOPES)}")
        self._database = database
        self._key = key
        self._now = now
        self._admin_token = admin_token
        self._authority = authority
        self._nobody = Principal(scopes=_widened(anonymous), is_anonymous=True)

    def issue(self, *, subject: str, ttl_s: float, claims: dict[str, Any]) -> str:
        import jwt

        token_id, now = secrets.token_hex(16), self._now()
        self._database.run(
            "INSERT INTO tokens (id, subject, created_at, expires_at) VALUES (?, ?, ?, ?)",
            token_id,
            subject,
            now,
            now + ttl_s,
        )
        times = {"iat": int(now), "exp": int(now + ttl_s)}
        payload = {**claims, "iss": _ISSUER, "sub": subject, "jti": token_id, **times}
        return jwt.encode(payload, self._key, algorithm=_ALGORITHM)

    def revoke(self, token: str) -> None:
        """Make a token useless from now on; one that is no token of ours already is."""
        try:
            token_id = self._claims(token)["jti"]
        except Refusal:
            return
        self._database.run("UPDATE tokens SET revoked_at = ? WHERE id = ?", self._now(), token_id)

    def principal(self, authorization: str) -> Principal:
        """Return who the value of an `Authorization` header stands for.

        Raises:
            Refusal: 401, there is a token and it is not valid.
        """
        if not authorization:
            return self._nobody
        kind, _, token = authorization.partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token:
            raise _unauthorized("the Authorization header is not 'Bearer <token>'")
        if self._admin_token and hmac.compare_digest(token.encode(), self._admin_token.encode()):
            return Principal(subject="admin", scopes=frozenset(SCOPES))
        known = self._authority(token) if self._authority is not None else None
        if known is not None:
            return known
        claims = self._claims(token)
        scopes = claims.get("scopes")
        return Principal(
            subject=str(claims.get("sub", "")),
            scopes=_widened(scopes if isinstance(scopes, list) else ()),
            capability=capability_from_claims(claims),
        )

    def _claims(self, token: str) -> dict[str, Any]:
        import jwt

        try:
            # Expiry is compared here, by the hub's own clock.
            options: Any = {"verify_exp": False, "verify_iat": False, "require": ["exp", "jti"]}
            claims: dict[str, Any] = jwt.decode(
                token, self._key, algorithms=[_ALGORITHM], issuer=_ISSUER, options=options
            )
        except jwt.InvalidTokenError as error:
            raise _unauthorized("the token is not one of this hub's") from error
        if not self._now() < float(claims["exp"]):
            raise _unauthorized("the token has expired")
        row = self._database.row("SELECT revoked_at FROM tokens WHERE id = ?", claims["jti"])
        if row is None or row["revoked_at"] is not None:
            raise _unauthorized("the token was revoked")
        return claims


def _widened(scopes: Collection[str]) -> frozenset[str]:
    held = [SCOPES.index(scope) for scope in scopes if scope in SCOPES]
    return frozenset(SCOPES[: max(held) + 1]) if held else frozenset()


def _unauthorized(message: str) -> Refusal:
    return Refusal(401, "unauthorized", message)
