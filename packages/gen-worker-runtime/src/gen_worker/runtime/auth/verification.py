"""Tokens against the published keys of their issuer (JWKS)."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.errors import ArtifactTransferError, AuthError, DeadlineExceededError
from gen_worker.models.net import Opener, parse_url
from gen_worker.runtime.auth.claims import Claims, claims_from

if TYPE_CHECKING:
    from collections.abc import Callable

    import jwt

__all__ = ["KeysUnavailableError", "TokenRefusedError", "TokenVerifier", "refused"]

Refusal = Literal[
    "malformed",
    "wrong_algorithm",
    "unknown_key",
    "bad_signature",
    "expired",
    "not_yet_valid",
    "wrong_issuer",
    "wrong_audience",
]

# A stronger list would have to be the issuers': they sign with this one.
_ALGORITHM = "RS256"
_MAX_KEYS_BYTES = 1024 * 1024
_SAID: dict[Refusal, str] = {
    "malformed": "it is no signed JWT",
    "wrong_algorithm": f"it is not signed with {_ALGORITHM}",
    "unknown_key": "its key is not among the issuer's published keys",
    "bad_signature": "its signature is not the issuer's",
    "expired": "it has expired",
    "not_yet_valid": "it is not valid yet: compare this machine's clock",
    "wrong_issuer": "it comes from another issuer",
    "wrong_audience": "it is meant for another audience",
}
_REFUSALS: dict[str, Refusal] = {
    "ExpiredSignatureError": "expired",
    "ImmatureSignatureError": "not_yet_valid",
    "InvalidAlgorithmError": "wrong_algorithm",
    "InvalidAudienceError": "wrong_audience",
    "InvalidIssuerError": "wrong_issuer",
    "InvalidSignatureError": "bad_signature",
}


class TokenRefusedError(AuthError):
    """A token is not what it must be; `reason` says why. No text here repeats any of it."""

    def __init__(self, reason: Refusal, *, claim: str = "") -> None:
        lacks = f"it lacks the claim {claim!r}"
        super().__init__(f"the token is refused: {lacks if claim else _SAID[reason]}")
        self.reason = reason
        self.claim = claim


def refused(error: Exception) -> TokenRefusedError:
    """Return what an error of PyJWT means."""
    claim = str(getattr(error, "claim", ""))  # of one that lacks a claim
    return TokenRefusedError(_REFUSALS.get(type(error).__name__, "malformed"), claim=claim)


class KeysUnavailableError(AuthError):
    """The issuer's keys could not be fetched, so no token can be checked."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"the keys of {url} could not be read: {problem}")


class TokenVerifier:
    """Checks tokens of one issuer and keeps its keys for a while. Thread-safe, blocking."""

    def __init__(
        self,
        jwks_url: str,
        *,
        issuer: str = "",
        audience: str = "",
        ttl_s: float = 300.0,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Say whose tokens are good.

        Args:
            jwks_url: Where the keys are: the operator's own word, so it may be a private address.
            issuer: What `iss` must be; empty accepts any.
            audience: What `aud` must be or contain; empty accepts any.
            ttl_s: How long fetched keys are good.
            timeout_s: For fetching them.
            clock: Seconds, for the age of the keys; a token's times are read from the system's.

        Raises:
            UrlRefusedError: `jwks_url` is no URL.
        """
        self._url = jwks_url
        self._issuer = issuer
        self._audience = audience
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._opener = Opener(
            trusted=(jwks_url,), connect_timeout_s=timeout_s, read_timeout_s=timeout_s
        )
        self._lock = threading.Lock()
        self._keys: list[tuple[str, jwt.PyJWK]] = []
        self._fetched_at: float | None = None

    def verify(self, token: str) -> Claims:
        """Return the claims of a token that the issuer signed and that is valid now.

        Raises:
            TokenRefusedError: It is not.
            KeysUnavailableError: The keys to tell are out of reach.
        """
        import jwt  # late: with its cryptography it is as large as all the rest of a worker

        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, RecursionError):
            raise TokenRefusedError("malformed") from None
        if header.get("alg") != _ALGORITHM:
            raise TokenRefusedError("wrong_algorithm")
        key = self._key(header.get("kid"))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=self._audience or None,
                issuer=self._issuer or None,
                # When it was made does not matter, and clocks differ.
                options={"verify_aud": bool(self._audience), "verify_iat": False},
            )
        except (jwt.InvalidTokenError, RecursionError) as error:
            raise refused(error) from None
        return claims_from(claims)

    def _key(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key a token names; an unknown name makes the keys be fetched again, once."""
        with self._lock:
            now = self._clock()
            is_stale = self._fetched_at is None or now - self._fetched_at >= self._ttl_s
            if is_stale:
                self._fetch()
            key = self._named(key_id)
            if key is None and not is_stale:
                self._fetch()
                key = self._named(key_id)
        if key is None:
            raise TokenRefusedError("unknown_key")
        return key

    def _named(self, key_id: str | None) -> jwt.PyJWK | None:
        """Return the key of this name, or the only one for a token that names none."""
        named = [key for name, key in self._keys if key_id in (name, None)]
        return named[0] if named and (key_id is not None or len(named) == 1) else None

    def _fetch(self) -> None:
        shown = str(parse_url(self._url))  # without a query, which may be a secret
        try:
            with self._opener.open(
                self._url,
                headers=[("Accept", "application/json")],
                max_bytes=_MAX_KEYS_BYTES,
                within_s=self._timeout_s,
            ) as response:
                published = msgspec.json.decode(response.read(), type=dict[str, Any])
        except (ArtifactTransferError, DeadlineExceededError) as error:
            raise KeysUnavailableError(shown, str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise KeysUnavailableError(shown, "the answer is no JSON object") from error
        keys = _usable_keys(published.get("keys"))
        if not keys:
            raise KeysUnavailableError(shown, f"it publishes no key for {_ALGORITHM} signatures")
        self._keys, self._fetched_at = keys, self._clock()


def _usable_keys(published: Any) -> list[tuple[str, jwt.PyJWK]]:
    import jwt

    keys: list[tuple[str, jwt.PyJWK]] = []
    for entry in published if isinstance(published, list) else ():
        # A key of another kind must never check a signature that claims to be of this one.
        if not isinstance(entry, dict) or entry.get("kty") != "RSA":
            continue
        if entry.get("use", "sig") != "sig" or entry.get("alg", _ALGORITHM) != _ALGORITHM:
            continue
        try:
            key = jwt.PyJWK(entry, algorithm=_ALGORITHM)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        keys.append((str(entry.get("kid", "")), key))
    return keys
