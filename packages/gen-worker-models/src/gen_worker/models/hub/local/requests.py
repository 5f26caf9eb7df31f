"""The bodies the hub reads, in every spelling of its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.hub.capability import Permissions
from gen_worker.models.hub.wire import FileEntry, FlavorFacts, Lineage, TagAssignment, UploadedPart

if TYPE_CHECKING:
    from collections.abc import Mapping

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


class CompleteBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/complete`: the parts; without them, an object was put."""

    parts: tuple[UploadedPart, ...] | None = None


class ManifestEntry(FileEntry, frozen=True, kw_only=True):
    digest: str = ""
    blake3: str = ""


class ManifestBody(msgspec.Struct, frozen=True, kw_only=True):
    entries: tuple[ManifestEntry, ...] = ()
    files: tuple[ManifestEntry, ...] = ()


class LineageBody(Lineage, frozen=True, kw_only=True, omit_defaults=False):
    parent_checkpoint_id: str = ""


class FlavorBody(FlavorFacts, frozen=True, kw_only=True):
    snapshot_manifest: tuple[ManifestEntry, ...] | ManifestBody = ()
    flavor: str = ""
    flavors: tuple[str, ...] = ()
    lineage: tuple[LineageBody, ...] = ()
    attributes: dict[str, Any] | None = None
    """What clients of 0.5 call the metadata."""

    @property
    def all_metadata(self) -> Mapping[str, Any]:
        return self.metadata or self.attributes or {}

    @property
    def entries(self) -> tuple[ManifestEntry, ...]:
        manifest = self.snapshot_manifest
        if isinstance(manifest, ManifestBody):
            return manifest.files or manifest.entries
        return manifest


class TagGroupBody(TagAssignment, frozen=True, kw_only=True):
    default_flavor: str = ""


class FinalizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST …/finalize`."""

    checkpoint_flavors: tuple[FlavorBody, ...]
    tags: tuple[TagGroupBody, ...] = ()
    tag_groups: tuple[TagGroupBody, ...] = ()
    """What clients of 0.5 call the tags."""
    auto_create_external_parent: bool = False

    @property
    def all_tags(self) -> tuple[TagGroupBody, ...]:
        return self.tags or self.tag_groups


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
    tags: tuple[str, ...] = ()
    """Set to the revision that this makes."""


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
    """`POST /api/v1/tokens`: scopes, or what one job may do."""

    scopes: tuple[str, ...] = ()
    capability: Permissions | None = None
    subject: str = ""
    ttl_s: float = 30 * 86_400.0


class SweepBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/v1/gc`."""

    older_than_s: float = 86_400.0
    untagged: bool = False
