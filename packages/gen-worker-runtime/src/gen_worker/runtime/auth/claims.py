"""What a worker's token says, read without checking who signed it: the orchestrator does that."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Claims", "claims_from", "read_claims"]

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """Who the bearer is; empty where the token says nothing."""

    subject: str = ""
    """The worker's id."""
    release_id: str = ""
    issuer: str = ""
    expires_at: float | None = None
    """Unix time in seconds; None means never."""


def read_claims(token: str) -> Claims | None:
    """Return the claims of a token, unverified; None when it is not three-part JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    body = parts[1]
    try:
        text = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        return claims_from(_decode(text))
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None


def claims_from(claims: Mapping[str, Any]) -> Claims:
    """Return the claims that matter here; one of another type than it must have is passed over."""
    expires_at = claims.get("exp")
    is_number = isinstance(expires_at, (int, float)) and not isinstance(expires_at, bool)
    return Claims(
        subject=_text(claims, "sub"),
        release_id=_text(claims, "release_id"),
        issuer=_text(claims, "iss"),
        expires_at=expires_at if is_number else None,
    )


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value.strip() if isinstance(value, str) else ""
