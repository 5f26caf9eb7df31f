"""The bodies the hub reads, in every spelling of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = [
    "CompleteBody",
    "CreateBody",
    "DatasetBody",
    "FinalizeBody",
    "FlavorBody",
    "LineageBody",
    "ManifestBody",
    "ManifestEntry",
    "MetadataBody",
    "OpenBody",
    "PublicBody",
    "SweepBody",
    "TagBody",
    "TokenBody",
]


class OpenBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST …/revisions`."""

    job_id: str = ""
    kind: str = ""
    library_name: str = ""
    model_family: str = ""
    class_name: str = ""
    adapter_for_checkpoint_group: str = ""
    adapter_for_family: str = ""


class CreateBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/uploads`."""

    blake3: str
    size_bytes: int
    path: str = ""
    ref: str = ""
    request_id: str = ""
    job_id: str = ""
    content_type: str = ""


class PartBody(msgspec.Struct, frozen=True, kw_only=True):
    part_number: int
    etag: str


class TransferBody(msgspec.Struct, frozen=True, kw_only=True):
    mode: str = ""


class CompleteBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/complete`: parts, or that an object was put."""

    parts: tuple[PartBody, ...] | None = None
    transfer: TransferBody | None = None


class ManifestEntry(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    size_bytes: int
    digest: str = ""
    blake3: str = ""


class ManifestBody(msgspec.Struct, frozen=True, kw_only=True):
    entries: tuple[ManifestEntry, ...] = ()
    files: tuple[ManifestEntry, ...] = ()


class LineageBody(msgspec.Struct, frozen=True, kw_only=True):
    parent_repo: str
    parent_checkpoint_id: str = ""
    relationship_kind: str
    metadata: Mapping[str, Any] = {}


class FlavorBody(msgspec.Struct, frozen=True, kw_only=True):
    snapshot_manifest: tuple[ManifestEntry, ...] | ManifestBody = ()
    flavor: str = ""
    flavors: tuple[str, ...] = ()
    lineage: tuple[LineageBody, ...] = ()
    display_label: str = ""
    dtype: str = ""
    file_layout: str = ""
    file_type: str = ""
    deletions: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = {}

    @property
    def entries(self) -> tuple[ManifestEntry, ...]:
        manifest = self.snapshot_manifest
        if isinstance(manifest, ManifestBody):
            return manifest.files or manifest.entries
        return manifest


class TagGroupBody(msgspec.Struct, frozen=True, kw_only=True):
    tag: str
    default_flavor: str = ""


class FinalizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/finalize`."""

    checkpoint_flavors: tuple[FlavorBody, ...]
    tags: tuple[TagGroupBody, ...] = ()
    auto_create_external_parent: bool = False


class TagBody(msgspec.Struct, frozen=True, kw_only=True):
    """`PUT …/tags`."""

    checkpoint_id: str


class MetadataBody(msgspec.Struct, frozen=True, kw_only=True):
    """`PUT …/metadata`."""

    metadata: dict[str, Any]


class DatasetBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/v1/datasets` and `PATCH /api/v1/datasets/{id}`."""

    owner: str = ""
    name: str = ""
    visibility: str | None = None
    schema: dict[str, Any] | None = None
    row_artifacts: Any = None


class ConstraintsBody(msgspec.Struct, frozen=True, kw_only=True):
    dtypes: tuple[str, ...] = ()
    file_types: tuple[str, ...] = ()
    file_layouts: tuple[str, ...] = ()


class PublicBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/v1/public/models/request`."""

    model_ref: str
    constraints: ConstraintsBody = ConstraintsBody()
    include_urls: bool = True


class TokenBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/v1/tokens`."""

    scopes: tuple[str, ...]
    subject: str = ""
    ttl_s: float = 30 * 86_400.0


class SweepBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/v1/gc`."""

    older_than_s: float = 86_400.0
    untagged: bool = False
