"""Object storage that is reached with credentials: turned into a URL, fetched like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.fetch.values import Location

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["grant_location"]

_EXPIRES_S = 12 * 3600
"""The grant's own session token ends earlier: then the URL is refused, and a new one asked for."""


def grant_location(record: Mapping[str, Any], *, is_optional: bool) -> Location | None:
    """Return a signed URL of the object a grant is for; None when it could do without.

    Args:
        record: The grant, in either spelling.
        is_optional: There is a URL besides, so a missing library is no failure.

    Raises:
        ArtifactTransferError: The grant is malformed, or boto3 is not installed.
    """
    from importlib.util import find_spec

    from gen_worker.models.hub.wire import TransferGrant

    grant = TransferGrant.from_record(record)
    if find_spec("boto3") is None:
        if is_optional:
            return None
        raise ArtifactTransferError(
            'the model is handed out through object storage: install "gen-worker[s3]"',
            provider="tensorhub",
            phase="grant",
        )
    from gen_worker.models.hub.grants import s3_client

    client = s3_client(grant)
    try:
        url = client.generate_presigned_url(
            "get_object",
            Params={"Bucket": grant.bucket, "Key": grant.key},
            ExpiresIn=_EXPIRES_S,
        )
    finally:
        client.close()
    return Location(str(url))
