"""The hub's own key, and what it signs: URLs that expire, grants, and seals over small texts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from gen_worker.models.store.private import read_or_write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Signer", "load_key"]

_KEY_BYTES = 32
_MAX_CHARS = 64


def load_key(path: str) -> bytes:
    """Return the key kept in a file, which is made at the first time, readable by its owner."""
    new = secrets.token_hex(_KEY_BYTES).encode()
    return bytes.fromhex(read_or_write_private(path, lambda: new).decode())


class Signer:
    """Signs with one key, each purpose apart."""

    def __init__(self, key: bytes, now: Callable[[], float]) -> None:
        self._key = key
        self._now = now

    def seal(self, purpose: str, *parts: str) -> str:
        """Return a text that only this hub can make for these parts."""
        # Lengths keep ("ab", "c") and ("a", "bc") apart.
        text = "".join(f"{len(part)}:{part}" for part in (purpose, *parts))
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def query(self, purpose: str, *parts: str, ttl_s: float) -> str:
        """Return the query of a signed URL."""
        expires = str(int(self._now() + ttl_s))
        return f"exp={expires}&sig={self.seal(purpose, *parts, expires)}"

    def problem(self, query: Mapping[str, str], purpose: str, *parts: str) -> str | None:
        """Say why the query of a signed URL is not accepted; None when it is."""
        expires, given = query.get("exp", ""), query.get("sig", "")
        if not expires.isdecimal() or len(expires) > _MAX_CHARS:
            return "the URL is not signed"
        if not self.matches(given, purpose, *parts, expires):
            return "the URL's signature is wrong"
        return None if self._now() < int(expires) else "the URL has expired: ask for a new one"

    def matches(self, given: str, purpose: str, *parts: str) -> bool:
        return hmac.compare_digest(given.encode(), self.seal(purpose, *parts).encode())
