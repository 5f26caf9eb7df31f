"""What travels between a hub and its clients, with every spelling that is understood."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from gen_worker.errors import ArtifactTransferError, ValidationError
from gen_worker.models.hub.errors import MalformedAnswerError
from gen_worker.models.snapshot import Snapshot, snapshot_from_record

__all__ = [
    "CHUNK_BYTES",
    "DATASET_FILES",
    "DEFAULT_FLAVOR",
    "LATEST",
    "PART_BYTES",
    "RELATIONSHIPS",
    "Artifact",
    "FileEntry",
    "FinalizeRequest",
    "FlavorFacts",
    "FlavorPublication",
    "Lineage",
    "Resolution",
    "TagAssignment",
    "TransferGrant",
    "UploadTicket",
    "Uploaded",
    "UploadedPart",
    "check_tags",
    "preferred_dtypes",
    "resolution_from",
]

PART_BYTES = 64 * 1024 * 1024
"""Size of one part of an upload, unless the hub says otherwise."""
CHUNK_BYTES = 8 * 1024 * 1024
"""What one hash of a blob's list of hashes covers."""
LATEST = "latest"
"""The tag that moves by itself with every publication."""
DATASET_FILES = "__cozy_snapshot_manifest__"
"""Key of a dataset's schema that lists its files."""
DEFAULT_FLAVOR = "default"
"""The flavor of what is published without a name for one."""

Relationship = Literal[
    "import",
    "quantization",
    "format-conversion",
    "fine-tune",
    "distillation",
    "pruning",
    "manual-fork",
]
RELATIONSHIPS: tuple[Relationship, ...] = Relationship.__args__  # type: ignore[attr-defined]

_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """In what form the files of a checkpoint are."""

    label: str = ""
    file_layout: str = ""
    file_type: str = ""
    quantization: str = ""


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """What a ref means at this moment."""

    snapshot: Snapshot
    revision_seq: int | None = None
    """Counts the repository's publications; grows."""
    artifact: Artifact = Artifact()
    tags: tuple[str, ...] | None = None
    """All tags of the repository; None when the hub does not tell."""
    flavors: tuple[str, ...] | None = None
    """All flavors beside this one; None when the hub does not tell."""
    pipeline_class: str | None = None
    """Class the files name, empty when they name none; None when the hub does not tell."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a publication."""

    path: str
    digest: str
    """`blake3:` and 64 hex digits."""
    size_bytes: int


class Lineage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a checkpoint comes from."""

    parent_repo: str
    parent_checkpoint_id: str
    relationship_kind: str
    metadata: Mapping[str, Any] = {}


class FlavorFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be told of one checkpoint of a publication."""

    display_label: str = ""
    dtype: str = ""
    file_layout: str = ""
    file_type: str = ""
    deletions: tuple[str, ...] = ()
    """Paths that the files of the same flavor under `latest` are merged without."""
    metadata: Mapping[str, Any] = {}


class FlavorPublication(FlavorFacts, frozen=True, kw_only=True):
    """One checkpoint of a publication."""

    snapshot_manifest: tuple[FileEntry, ...]
    flavor: str
    flavors: tuple[str, ...]
    """All labels, `flavor` first."""
    lineage: tuple[Lineage, ...]


class TagAssignment(msgspec.Struct, frozen=True, kw_only=True):
    """A tag, and which flavor a ref without one means."""

    tag: str
    default_flavor: str


class FinalizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A publication as a whole: it happens all at once or not at all."""

    tags: tuple[TagAssignment, ...]
    checkpoint_flavors: tuple[FlavorPublication, ...]
    auto_create_external_parent: bool


class TransferGrant(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials to write one object of an S3 store."""

    endpoint_url: str
    bucket: str
    key: str
    access_key_id: str
    secret_access_key: str
    session_token: str = ""
    region: str = "auto"
    expires_at: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TransferGrant:
        """Read a grant in either spelling.

        Raises:
            ArtifactTransferError: Something that is required is missing.
        """
        values = {name: _spelled(record, name) for name in cls.__struct_fields__}
        missing = [name for name in cls.__struct_fields__[:5] if not values[name]]
        if missing:
            raise ArtifactTransferError(
                f"the hub's grant has no {', '.join(missing)}", provider="tensorhub", phase="grant"
            )
        return cls(**{name: str(value) for name, value in values.items() if value})

    def __repr__(self) -> str:  # the keys are secret
        return f"TransferGrant({self.bucket}/{self.key} at {self.endpoint_url})"


_OTHER_NAMES = {"bucket": ("bucket_name", "bucketName"), "key": ("object_key", "objectKey")}


def _spelled(record: Mapping[str, Any], name: str) -> Any:
    first, *rest = name.split("_")
    camel = first + "".join(word.title() for word in rest)
    names = (name, camel, *_OTHER_NAMES.get(name, ()))
    return next((record[spelling] for spelling in names if record.get(spelling)), "")


class UploadTicket(msgspec.Struct, frozen=True, kw_only=True):
    """How the hub wants one file sent."""

    upload_id: str = ""
    dedup: bool = False
    """The hub has these bytes already: nothing is left to do."""
    transfer_grant: Mapping[str, Any] | None = None
    s3_transfer_grant: Mapping[str, Any] | None = None
    part_urls: tuple[str, ...] = ()
    part_size: int = PART_BYTES
    total_parts: int | None = None
    parts: tuple[UploadedPart, ...] = ()
    """Parts the hub has from an upload that was broken off."""

    def __post_init__(self) -> None:
        if self.part_size < 1:
            raise ValueError(f"parts of {self.part_size} bytes")

    @property
    def grant(self) -> Mapping[str, Any] | None:
        return self.transfer_grant or self.s3_transfer_grant

    def __repr__(self) -> str:  # grants and URLs are secret
        return f"UploadTicket({self.upload_id!r}, {len(self.part_urls)} parts)"


class UploadedPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an upload; parts count from 1."""

    part_number: int
    etag: str
    size_bytes: int | None = None


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """A file the hub has."""

    ref: str
    size_bytes: int
    blake3: str
    sha256: str = ""
    mime_type: str = ""
    media_id: str = ""
    blob_digest: str = ""
    blob_domain: str = ""
    blob_path: str = ""
    snapshot_digest: str = ""
    dedup: bool = False
    """It was there before; no byte was sent."""


def resolution_from(answer: Any) -> Resolution:
    """Read the answer of `resolve` or of a public request.

    Raises:
        MalformedAnswerError: It names no checkpoint, or no files.
    """
    if not isinstance(answer, dict):
        raise MalformedAnswerError("the hub's answer is no JSON object")
    try:
        snapshot = snapshot_from_record(answer)
    except ValidationError as error:
        raise MalformedAnswerError(f"the hub's answer is of no use: {error}") from error
    return Resolution(
        snapshot=snapshot,
        revision_seq=_revision_seq(answer),
        artifact=_artifact(answer),
        tags=_names(answer.get("tags")),
        flavors=_names(answer.get("flavors")),
        pipeline_class=_text_or_none(answer.get("pipeline_class")),
    )


def _revision_seq(answer: Mapping[str, Any]) -> int | None:
    names = ("repo_revision_seq", "revision", "version")
    return next((answer[name] for name in names if isinstance(answer.get(name), int)), None)


def _artifact(answer: Mapping[str, Any]) -> Artifact:
    record = answer.get("artifact") or answer.get("variant")
    if not isinstance(record, dict):
        return Artifact()
    return Artifact(
        label=str(record.get("label") or ""),
        file_layout=str(record.get("file_layout") or ""),
        file_type=str(record.get("file_type") or ""),
        quantization=str(record.get("quantization") or record.get("dtype") or ""),
    )


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(str(name) for name in value) if isinstance(value, list) else None


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags in lower case, sorted, each once.

    Raises:
        ValidationError: One is no tag, or is `latest`, which moves by itself.
    """
    folded = sorted({tag.strip().lower() for tag in tags})
    wrong = [tag for tag in folded if not _TAG.fullmatch(tag)]
    if wrong:
        raise ValidationError(
            f"{', '.join(map(repr, wrong))}: a tag has at most 63 of a-z, 0-9, '.', '_' and '-', "
            "and begins with a letter or digit"
        )
    if LATEST in folded:
        raise ValidationError("the tag 'latest' moves by itself with every publication: leave it")
    return tuple(folded)


def preferred_dtypes(dtypes: Sequence[str]) -> list[str]:
    """Return dtypes as the hub is asked for them: bf16 first where it or fp16 will do."""
    asked = list(dtypes) or ["bf16", "fp16"]
    first = ["bf16"] if {"bf16", "fp16"} & set(asked) else []
    return list(dict.fromkeys([*first, *asked]))
