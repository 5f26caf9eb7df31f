"""What a worker may do with files while it has a job: sealed into a token, kept nowhere."""

from __future__ import annotations

import base64
import hmac
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import AuthError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["JobPass", "Passes"]

_PREFIX = "gwj1"
"""Says what it is, and that no JSON is in it: a worker does not try to read its claims."""
_SEAL_BYTES = 32


class JobPass(msgspec.Struct, frozen=True, array_like=True):
    """One request, at one worker."""

    seq: int
    request_id: str
    worker_id: str
    owner: str
    expires_at: float
    """Unix time."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(JobPass).decode


class Passes:
    """Seals and reads them; nothing is stored, so there is nothing to steal."""

    def __init__(self, key: bytes, *, now: Callable[[], float] = time.time) -> None:
        """Seal with a key.

        Args:
            key: At least 32 random bytes; as long as it is the same, tokens stay good.
            now: Unix time.
        """
        self._key = key
        self._now = now

    def issue(self, *, seq: int, request_id: str, worker_id: str, owner: str, ttl_s: float) -> str:
        """Return the token of a request for the worker that it is given to."""
        body = _encode(JobPass(seq, request_id, worker_id, owner, self._now() + ttl_s))
        text = base64.urlsafe_b64encode(self._seal(body) + body).rstrip(b"=").decode()
        return f"{_PREFIX}.{text}"

    def read(self, token: str) -> JobPass | None:
        """Return what a token is for; None when it is none of these.

        Raises:
            AuthError: It is one, and it is forged, damaged or too old.
        """
        prefix, _, text = token.partition(".")
        if prefix != _PREFIX:
            return None
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise AuthError("the job's token is damaged") from None
        seal, body = data[:_SEAL_BYTES], data[_SEAL_BYTES:]
        if not hmac.compare_digest(seal, self._seal(body)):
            raise AuthError("the job's token is not one of this scheduler's")
        found = _decode(body)
        if self._now() >= found.expires_at:
            raise AuthError("the job's token has expired")
        return found

    def _seal(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, sha256)
