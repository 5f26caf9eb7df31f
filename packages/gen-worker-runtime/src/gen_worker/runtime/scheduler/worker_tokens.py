"""Tokens that workers connect with: signed here, checked here, and by workers with the keys."""

from __future__ import annotations

import os
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ValidationError
from gen_worker.models.store.private import read_or_write_private
from gen_worker.runtime.auth.claims import claims_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from gen_worker.runtime.auth.claims import Claims

__all__ = ["ISSUER", "KEY_NAME", "WorkerTokens"]

ISSUER = "gen-worker-scheduler"
KEY_NAME = "worker-tokens.pem"
_ALGORITHM = "RS256"
_KEY_BITS = 2048
_MAX_NAME_CHARS = 256


class WorkerTokens:
    """Issues and checks what `WORKER_JWT` holds. Thread-safe, blocking.

    The key is made when it is first needed; until then nothing of cryptography is imported, which
    takes as much memory as a ledger with a hundred thousand requests.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        ttl_s: float = 30 * 86_400.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is read or made yet.

        Args:
            folder: Private to the user; the key is in it, readable by its owner only.
            ttl_s: How long tokens are good for connecting where nothing else is asked for.
            now: Unix time.
        """
        self._path = os.path.join(folder, KEY_NAME)
        self._ttl_s = ttl_s
        self._now = now
        self._lock = threading.Lock()
        self._key: tuple[RSAPrivateKey, str] | None = None

    def issue(
        self, *, release_id: str, owner: str = "", worker_id: str = "", ttl_s: float | None = None
    ) -> str:
        """Return a token for one worker.

        Args:
            release_id: What it runs.
            owner: Whose endpoint that is.
            worker_id: Its name; empty makes one nobody else has.
            ttl_s: How long it is good for connecting; None is as long as others.

        Raises:
            ValidationError: There is no release, or a name is too long.
            OSError: The key cannot be read or kept.
        """
        import jwt

        names = {"release_id": release_id, "owner": owner, "worker_id": worker_id}
        for name, value in names.items():
            if len(value) > _MAX_NAME_CHARS:
                raise ValidationError(
                    f"{name} has {len(value)} characters, at most {_MAX_NAME_CHARS} are taken"
                )
        if not release_id:
            raise ValidationError("a worker's token needs the id of the release that it runs")
        ttl_s = self._ttl_s if ttl_s is None else ttl_s
        if not 0 < ttl_s < float("inf"):
            raise ValidationError(f"a token cannot be good for {ttl_s!r} s: say more than 0")
        key, key_id = self._signer()
        now = self._now()
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": worker_id or f"worker-{secrets.token_hex(8)}",
            "release_id": release_id,
            "owner": owner,
            "iat": int(now),
            "exp": int(now + ttl_s),
            "jti": secrets.token_hex(16),
        }
        return jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"kid": key_id})

    def verify(self, token: str) -> Claims:
        """Return who bears a token that was issued here and is good now.

        Raises:
            TokenRefusedError: It is not.
            OSError: The key cannot be read or kept.
        """
        import jwt

        from gen_worker.runtime.auth.verification import TokenRefusedError, refused

        key, _ = self._signer()
        try:
            claims = jwt.decode(
                token,
                key.public_key(),
                algorithms=[_ALGORITHM],
                issuer=ISSUER,
                # Its times are compared here, by the scheduler's own clock.
                options={"verify_exp": False, "verify_iat": False, "require": ["exp", "sub"]},
            )
        except (jwt.InvalidTokenError, RecursionError) as error:
            raise refused(error) from None
        found = claims_from(claims)
        if found.expires_at is None or self._now() >= found.expires_at:
            raise TokenRefusedError("expired")
        return found

    def jwks(self) -> dict[str, Any]:
        """Return the public key as workers read it (`SCHEDULER_JWKS_URL`).

        Raises:
            OSError: The key cannot be read or kept.
        """
        from jwt.algorithms import RSAAlgorithm

        key, key_id = self._signer()
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": key_id, "use": "sig", "alg": _ALGORITHM}]}

    def _signer(self) -> tuple[RSAPrivateKey, str]:
        """Return the key and its name."""
        with self._lock:
            if self._key is None:
                self._key = _loaded(read_or_write_private(self._path, _new_key))
            return self._key


def _new_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _loaded(pem: bytes) -> tuple[RSAPrivateKey, str]:
    from hashlib import sha256

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, RSAPrivateKey), "it was made here"
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key, sha256(public).hexdigest()[:16]
