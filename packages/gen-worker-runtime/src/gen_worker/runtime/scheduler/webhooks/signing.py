"""The signature of a webhook, made and checked as Standard Webhooks says.

webhook-id: msg_…                   the same at every attempt
webhook-timestamp: 1700000000       of this attempt
webhook-signature: v1,<base64>      HMAC-SHA256 of `<id>.<timestamp>.<body>`; one per secret
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from typing import TYPE_CHECKING

from gen_worker.errors import AuthError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["SECRET_PREFIX", "WebhookSignatureError", "signatures", "verify"]

SECRET_PREFIX = "whsec_"
_ID = "webhook-id"
_TIMESTAMP = "webhook-timestamp"
_SIGNATURE = "webhook-signature"


class WebhookSignatureError(AuthError):
    """What came was not signed with the secret, or not lately: do nothing that it says."""


def signatures(webhook_id: str, timestamp: int, body: bytes, secrets: Iterable[str]) -> str:
    """Return the `webhook-signature` of a message, with a signature for each secret.

    Raises:
        ValidationError: A secret is not `whsec_` and base64.
    """
    return " ".join(
        "v1," + base64.b64encode(_digest(webhook_id, timestamp, body, secret)).decode("ascii")
        for secret in secrets
    )


def verify(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str | Iterable[str],
    *,
    tolerance_s: float = 300.0,
    now: float | None = None,
) -> str:
    """Check a webhook that came in; what this does not raise for was sent by the scheduler.

    Args:
        body: Just as it came: JSON that was read and written again has another signature.
        headers: Of the request; upper and lower case do not matter.
        secret: `whsec_…`, or several of them while one is replaced.
        tolerance_s: How far the timestamp may be from now; older ones may be repeated by a thief.
        now: Unix time; by default this machine's.

    Returns:
        The webhook's id. The same may come more than once: do what it says once.

    Raises:
        WebhookSignatureError: It is not signed, not with this secret, or not lately.
        ValidationError: A secret is not `whsec_` and base64.
    """
    found = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in (_ID, _TIMESTAMP, _SIGNATURE) if not found.get(name)]
    if missing:
        raise WebhookSignatureError(f"the webhook has no header {missing[0]!r}: it is not signed")
    timestamp = _timestamp(found[_TIMESTAMP], tolerance_s, time.time() if now is None else now)
    content = body.encode() if isinstance(body, str) else body
    given = [_decoded(part[3:]) for part in found[_SIGNATURE].split(" ") if part[:3] == "v1,"]
    secrets = (secret,) if isinstance(secret, str) else tuple(secret)
    digests = [_digest(found[_ID], timestamp, content, one) for one in secrets]
    # All of them are compared, so that the time it takes says nothing.
    if not any([hmac.compare_digest(mine, theirs) for mine in digests for theirs in given]):
        raise WebhookSignatureError("the webhook is not signed with this secret: ignore it")
    return found[_ID]


def _digest(webhook_id: str, timestamp: int, body: bytes, secret: str) -> bytes:
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return hmac.digest(_key_of(secret), content, hashlib.sha256)


def _key_of(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValidationError(
            f"a webhook secret is {SECRET_PREFIX!r} and base64: copy it as the scheduler shows it"
        ) from None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _timestamp(text: str, tolerance_s: float, now: float) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise WebhookSignatureError(f"the webhook's timestamp is {text[:40]!r}: ignore it")
    timestamp = int(text)
    if abs(now - timestamp) > tolerance_s:
        raise WebhookSignatureError(
            f"the webhook was signed {now - timestamp:.0f} s ago, at most {tolerance_s:g} s are "
            "accepted: compare this machine's clock, or ignore it"
        )
    return timestamp
