"""What the parts of the hub share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.models.hub.local.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from gen_worker.models.hub.local.asgi import Call
    from gen_worker.models.hub.local.blobs import Blobs
    from gen_worker.models.hub.local.catalog import Catalog
    from gen_worker.models.hub.local.database import Database
    from gen_worker.models.hub.local.ingest import Ingests
    from gen_worker.models.hub.local.media import Media
    from gen_worker.models.hub.local.publications import Publications
    from gen_worker.models.hub.local.signing import Signer
    from gen_worker.models.hub.local.tokens import Principal, Tokens
    from gen_worker.models.hub.local.uploads import Uploads

__all__ = ["HubOptions", "Rooms", "document", "rfc3339"]


class HubOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a local hub behaves. Sizes in bytes, times in seconds."""

    public_url: str = ""
    """Begins every URL the hub hands out; empty: what the caller's own request was sent to."""
    url_ttl_s: float = 3600.0
    """After which a signed URL or a grant is refused."""
    revision_ttl_s: float = 86_400.0
    part_bytes: int = 64 * 1024 * 1024
    max_file_bytes: int = 20 * 1024**3
    max_body_bytes: int = 32 * 1024 * 1024
    """Of a JSON body."""
    offers_grants: bool = True
    """Whether an upload may also be sent with an S3 library."""
    finalizes_later: bool = False
    """Answer a finalize with 202 and publish in the background."""


class Rooms(NamedTuple):
    """The parts of one hub."""

    options: HubOptions
    now: Callable[[], float]
    database: Database
    blobs: Blobs
    media: Media
    catalog: Catalog
    publications: Publications
    uploads: Uploads
    tokens: Tokens
    signer: Signer
    ingests: Ingests
    files: Executor
    """Reads and writes bodies."""
    work: Executor
    """Runs what is asked for, and what goes on behind an answer."""

    def base_url(self, call: Call) -> str:
        if self.options.public_url:
            return self.options.public_url.rstrip("/")
        host = call.headers.get("host", "")
        if not host or not host.isascii() or set(host) & set("/\\@?# \"'<>"):
            raise Refusal(400, "invalid_host", "the Host header names no host")
        return f"{call.scheme}://{host}"

    def blob_url(self, call: Call, digest: str) -> str:
        query = self.signer.query("blob", digest, ttl_s=self.options.url_ttl_s)
        return f"{self.base_url(call)}/blob/{digest}?{query}"

    def may_read_blob(self, principal: Principal, digest: str) -> bool:
        """Whether the caller may read some repository, or dataset, that has the blob."""
        if principal.may("read"):
            return True
        return any(principal.may_read(*repo) for repo in self.catalog.repos_with(digest))

    def may_list_blob(self, principal: Principal, digest: str) -> bool:
        """Whether the caller may name the blob as a file of a dataset: it may read it, or sent it.

        Whoever may read a dataset may read its files.
        """
        if self.may_read_blob(principal, digest):
            return True
        own = principal.capability
        return own is not None and not own.owners.isdisjoint(self.media.owners_of(digest))


def document(value: Any) -> Any:
    """Read what a JSON column holds."""
    return msgspec.json.decode(value)


def rfc3339(moment: float) -> str:
    """Write a time as answers tell it."""
    import datetime

    when = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")
