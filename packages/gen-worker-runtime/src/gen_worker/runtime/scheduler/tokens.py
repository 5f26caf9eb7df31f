"""Tokens of the scheduler's callers: kept as digests, with scopes and an owner, and revocable."""

from __future__ import annotations

import hashlib
import logging
import secrets
from hmac import compare_digest
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.runtime.http.credentials import EVERYBODY, SCOPES, OneToken, Principal, Scope
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.releases.names import checked_owner

if TYPE_CHECKING:
    import sqlite3
    from asyncio import Future
    from collections.abc import Callable, Iterable

    from gen_worker.runtime.scheduler.ledger import Ledger

__all__ = ["IssuedToken", "TokenRecord", "Tokens"]

_log = logging.getLogger("gen_worker.scheduler")

_PREFIX = b"gwt_"
_ID_BYTES = 8
_SECRET_BYTES = 32
_MAX_NAME_CHARS = 200
_MAX_TOKENS = 100_000
_DAY_S = 86_400
_NO_DIGEST = bytes(32)
_STARTS_WORKERS = Principal(frozenset(("worker",)), name="worker")


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a token; the token itself is not. Times are Unix times."""

    token_id: str
    name: str
    """What it is for, as whoever issued it has said."""
    scopes: tuple[Scope, ...]
    owner: str | None
    """Whose requests and releases it is for; None: anybody's."""
    created_at: float
    created_by: str
    used_on: int | None = None
    """Day it was used last, counted from 1970-01-01."""
    revoked_at: float | None = None


class IssuedToken(NamedTuple):
    """A new token."""

    token: str
    """Shown this once."""
    record: TokenRecord


class _Held(NamedTuple):
    digest: bytes
    record: TokenRecord
    principal: Principal


class Tokens:
    """The tokens of one scheduler, as its HTTP app's credentials. On the ledger's loop."""

    def __init__(
        self,
        ledger: Ledger,
        held: Iterable[tuple[bytes, TokenRecord]],
        *,
        root_token: str = "",
        worker_token: str = "",
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Use `Tokens.open`.

        Args:
            ledger: They are in its database.
            held: Those that there are, with their digests.
            root_token: One that may do everything and is not kept.
            worker_token: One that may start workers and is not kept.
            clock: Unix time.
        """
        self._ledger = ledger
        self._clock = clock or steady_clock()
        self._given = [
            (OneToken(token), principal)
            for token, principal in ((root_token, EVERYBODY), (worker_token, _STARTS_WORKERS))
            if token
        ]
        self._held: dict[bytes, _Held] = {}
        for digest, record in held:
            self._hold(digest, record)

    @classmethod
    async def open(
        cls,
        ledger: Ledger,
        *,
        root_token: str = "",
        worker_token: str = "",
        clock: Callable[[], float] | None = None,
    ) -> Tokens:
        """Read those that there are; arguments are the constructor's."""
        held = await ledger.ask(_rows)
        return cls(ledger, held, root_token=root_token, worker_token=worker_token, clock=clock)

    def __repr__(self) -> str:
        return f"<Tokens {len(self._held)}>"

    def principal(self, token: bytes) -> Principal | None:
        """Return who has a token; None when it is unknown or revoked."""
        for one, principal in self._given:
            if one.principal(token) is not None:
                return principal
        token_id, _, _ = token.removeprefix(_PREFIX).partition(b"_")
        held = self._held.get(token_id)
        digest = hashlib.sha256(token).digest()
        if not compare_digest(digest, _NO_DIGEST if held is None else held.digest):
            return None
        assert held is not None, "no token has a digest of zeros"
        if held.record.revoked_at is not None:
            return None
        self._note_use(token_id, held)
        return held.principal

    def records(self) -> tuple[TokenRecord, ...]:
        """Return what is known of all tokens, revoked ones too, the latest first."""
        records = (held.record for held in self._held.values())
        return tuple(sorted(records, key=lambda one: one.created_at, reverse=True))

    async def issue(
        self, scopes: Iterable[str], *, owner: str | None = None, name: str = "", by: str = ""
    ) -> IssuedToken:
        """Make a token.

        Args:
            scopes: What it may do.
            owner: Whose requests and releases it is for; None: anybody's.
            name: What it is for.
            by: Who issues it.

        Raises:
            ValidationError: A scope or a name is none.
            LedgerWriteError: There is no room; it is not made.
        """
        if len(self._held) >= _MAX_TOKENS:
            raise ValidationError(f"there are {_MAX_TOKENS} tokens: use one of them")
        if len(name) > _MAX_NAME_CHARS:
            raise ValidationError(f"the name has {len(name)} characters, at most {_MAX_NAME_CHARS}")
        record = TokenRecord(
            token_id=secrets.token_hex(_ID_BYTES),
            name=name,
            scopes=_checked(scopes),
            owner=None if owner is None else checked_owner(owner),
            created_at=self._clock(),
            created_by=by,
        )
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        token = f"{_PREFIX.decode()}{record.token_id}_{secret}"
        digest = hashlib.sha256(token.encode()).digest()
        await self._ledger.transact(lambda connection, _now: _insert(connection, digest, record))
        self._hold(digest, record)
        return IssuedToken(token, record)

    async def revoke(self, token_id: str) -> bool:
        """Have a token hold no longer, from now on; False when there is none that does.

        Raises:
            LedgerWriteError: There is no room; it holds.
        """
        key = token_id.encode("utf-8", "surrogatepass")
        held = self._held.get(key)
        if held is None or held.record.revoked_at is not None:
            return False
        now = self._clock()
        await self._ledger.transact(
            lambda connection, _now: (
                connection.execute(
                    "UPDATE tokens SET revoked_at = ? WHERE token_id = ?", (now, token_id)
                ).rowcount
            )
        )
        record = self._held[key].record
        self._hold(held.digest, msgspec.structs.replace(record, revoked_at=now))
        return True

    def _hold(self, digest: bytes, record: TokenRecord) -> None:
        principal = Principal(frozenset(record.scopes), record.owner, record.name)
        self._held[record.token_id.encode()] = _Held(digest, record, principal)

    def _note_use(self, key: bytes, held: _Held) -> None:
        """Write the day down, once a day; that it was used on is no secret to anybody who waits."""
        today = int(self._clock() // _DAY_S)
        if held.record.used_on == today:
            return
        record = msgspec.structs.replace(held.record, used_on=today)
        self._held[key] = held._replace(record=record)
        token_id = record.token_id
        writing = self._ledger.transact(
            lambda connection, _now: (
                connection.execute(
                    "UPDATE tokens SET used_on = ? WHERE token_id = ?", (today, token_id)
                ).rowcount
            )
        )
        writing.add_done_callback(_forgive)


def _forgive(writing: Future[int]) -> None:
    """A full disk stops nobody who has a token; the day is written with the next start's use."""
    if not writing.cancelled() and (error := writing.exception()) is not None:
        _log.warning("the day a token was used is not written: %s", error)


def _checked(scopes: Iterable[str]) -> tuple[Scope, ...]:
    wanted = set(scopes)
    unknown = sorted(wanted.difference(SCOPES))
    if unknown or not wanted:
        words = f"{unknown[0]!r:.200} is no scope" if unknown else "a token needs a scope"
        raise ValidationError(f"{words}: there are {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in wanted)


# -- rows ------------------------------------------------------------------------------------------


def _insert(connection: sqlite3.Connection, digest: bytes, record: TokenRecord) -> None:
    connection.execute(
        "INSERT INTO tokens (token_id, digest, name, scopes, owner, created_at, created_by)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            record.token_id,
            digest,
            record.name,
            " ".join(record.scopes),
            record.owner,
            record.created_at,
            record.created_by,
        ),
    )


def _rows(connection: sqlite3.Connection) -> list[tuple[bytes, TokenRecord]]:
    names = TokenRecord.__struct_fields__
    found = []
    for digest, *row in connection.execute(f"SELECT digest, {', '.join(names)} FROM tokens"):
        fields = dict(zip(names, row, strict=True))
        fields["scopes"] = _checked(fields["scopes"].split())
        found.append((digest, TokenRecord(**fields)))
    return found
