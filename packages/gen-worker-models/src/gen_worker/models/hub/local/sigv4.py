"""Checks that a request was signed with a secret key, as S3 clients sign (AWS Signature V4).

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Credential", "is_signed", "read_credential"]

_ALGORITHM = "AWS4-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    rf"{_ALGORITHM}\s+Credential=([^/,\s]+)/(\d{{8}})/([^/,\s]+)/s3/aws4_request,\s*"
    r"SignedHeaders=([a-z0-9;-]+),\s*Signature=([0-9a-f]{64})"
)
_MAX_SKEW_S = 15 * 60
_NEEDED = frozenset({"host", "x-amz-date", "x-amz-content-sha256"})


class Credential(NamedTuple):
    """What an `Authorization` header says."""

    access_key_id: str
    date: str
    region: str
    signed_headers: tuple[str, ...]
    signature: str


def read_credential(authorization: str) -> Credential | None:
    match = _AUTHORIZATION.fullmatch(authorization.strip())
    if match is None:
        return None
    return Credential(match[1], match[2], match[3], tuple(match[4].split(";")), match[5])


def is_signed(
    credential: Credential,
    secret: str,
    *,
    method: str,
    raw_path: str,
    raw_query: str,
    headers: Mapping[str, str],
    now: float,
) -> bool:
    """Whether the request carries the signature that `secret` makes, and is not old."""
    signed, moment = set(credential.signed_headers), headers.get("x-amz-date", "")
    if not _NEEDED <= signed or not signed <= set(headers) or not _is_recent(moment, now):
        return False
    request = "\n".join(
        (
            method,
            raw_path,
            _canonical_query(raw_query),
            "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in sorted(signed)),
            ";".join(sorted(signed)),
            headers["x-amz-content-sha256"],
        )
    )
    scope = f"{credential.date}/{credential.region}/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join((_ALGORITHM, moment, scope, digest))
    key = f"AWS4{secret}".encode()
    for part in (credential.date, credential.region, "s3", "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(key.hex(), credential.signature)


def _is_recent(moment: str, now: float) -> bool:
    try:
        then = datetime.datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    except ValueError:
        return False
    return abs(then.timestamp() - now) <= _MAX_SKEW_S


def _canonical_query(raw_query: str) -> str:
    pairs = [pair if "=" in pair else f"{pair}=" for pair in raw_query.split("&") if pair]
    return "&".join(sorted(pairs, key=lambda pair: pair.partition("=")[::2]))
