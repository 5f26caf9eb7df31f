"""What one version of a model consists of: its files, their sizes and digests, where to get them.

A snapshot is a value. Whoever holds one may join its paths to a directory: each was checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Snapshot", "SnapshotFile", "parse_blake3", "snapshot_from_record", "snapshot_of"]

_HEX = re.compile(r"[0-9a-f]{64}")


class SnapshotFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a snapshot."""

    path: str
    """Relative to the snapshot's directory, `/` between its segments."""
    size_bytes: int
    blake3: str
    """64 hex digits."""
    url: str = ""
    """Where the bytes are; often signed, with an expiry. Empty when only the digest is known."""
    transfer_grant: Mapping[str, Any] | None = None
    """Credentials for object storage, instead of `url`; wins over it."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "path", safe_join("", self.path))
        if self.size_bytes < 0:
            raise ValidationError(f"file {self.path!r} has a negative size, {self.size_bytes}")
        if not _HEX.fullmatch(self.blake3):
            raise ValidationError(
                f"file {self.path!r} has the BLAKE3 digest {self.blake3!r}: not 64 hex digits"
            )

    def __repr__(self) -> str:
        # A signed URL and a grant are credentials.
        return f"SnapshotFile({self.path!r}, {self.size_bytes} bytes, blake3:{self.blake3[:12]}…)"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one checkpoint."""

    digest: str
    """Identity, 64 hex digits; with `blake3:` before it, the checkpoint id of the hub."""
    files: tuple[SnapshotFile, ...]
    """Sorted by path; no two paths differ in case only."""

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.digest):
            raise ValidationError(f"{self.digest!r} is no digest of a snapshot: 64 hex digits")
        if not self.files:
            raise ValidationError(f"snapshot {self.digest} has no files")
        _refuse_clashes(self)

    @property
    def checkpoint_id(self) -> str:
        return f"blake3:{self.digest}"

    @property
    def size_bytes(self) -> int:
        """Bytes of its distinct contents."""
        return sum({file.blake3: file.size_bytes for file in self.files}.values())


def _refuse_clashes(snapshot: Snapshot) -> None:
    """Refuse two files of one name, upper and lower case alike, and a file that is a directory."""
    seen: set[str] = set()
    directories = {parent for file in snapshot.files for parent in _parents(file.path.casefold())}
    for file in snapshot.files:
        name = file.path.casefold()
        if name in seen or name in directories:
            raise ValidationError(
                f"snapshot {snapshot.digest} has {file.path!r} and another file of that name, or "
                "below it: some machines cannot hold both"
            )
        seen.add(name)


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def snapshot_of(files: Iterable[SnapshotFile]) -> Snapshot:
    """Return the snapshot that consists of `files`, its digest computed as the hub computes it.

    The digest is BLAKE3 of the canonical JSON of the sorted `{digest, path, size_bytes}`.
    """
    from blake3 import blake3

    ordered = tuple(sorted(files, key=lambda file: file.path))
    entries = [
        {"digest": f"blake3:{file.blake3}", "path": file.path, "size_bytes": file.size_bytes}
        for file in ordered
    ]
    digest = blake3(msgspec.json.encode(entries)).hexdigest()
    return Snapshot(digest=digest, files=ordered)


def snapshot_from_record(record: Mapping[str, Any]) -> Snapshot:
    """Read a resolved repository as the wire or the hub's `resolve` carries it.

    Accepted spellings: `snapshot_digest`, `snapshotDigest` or `checkpoint_id`; a list `files` or
    `entries`, at the top or below `snapshot_manifest`; per file `blake3`, `BLAKE3` or `digest`,
    `url`, `transfer_grant` or `s3_transfer_grant`. Entries without a path are skipped.

    Raises:
        ValidationError: A part is missing or malformed, or a path leads out of the snapshot.
    """
    if not isinstance(record, dict):
        raise ValidationError(f"malformed snapshot: {record!r:.120} is no object")
    digest = _first(record, "snapshot_digest", "snapshotDigest", "checkpoint_id")
    if not isinstance(digest, str):
        raise ValidationError("malformed snapshot: it has no `snapshot_digest`")
    manifest = record.get("snapshot_manifest", record)
    entries = _first(manifest, "files", "entries") if isinstance(manifest, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValidationError(f"malformed snapshot {digest!r}: its list of files is empty")
    return Snapshot(digest=parse_blake3(digest), files=_files(entries))


def parse_blake3(text: str) -> str:
    """Return the 64 hex digits of a digest, with or without `blake3:` before them.

    Raises:
        ValidationError: It is something else; nothing else may become part of a path.
    """
    digest = text.removeprefix("blake3:").lower()
    if not _HEX.fullmatch(digest):
        raise ValidationError(f"{text!r:.120} is no BLAKE3 digest such as 'blake3:<64 hex digits>'")
    return digest


def _files(entries: Sequence[Any]) -> tuple[SnapshotFile, ...]:
    files = [_file(entry) for entry in entries if isinstance(entry, dict) and entry.get("path")]
    return tuple(sorted(files, key=lambda file: file.path))


def _file(entry: Mapping[str, Any]) -> SnapshotFile:
    path, size = entry["path"], entry.get("size_bytes", 0)
    digest = _first(entry, "blake3", "BLAKE3", "digest")
    if not isinstance(path, str) or not isinstance(digest, str):
        raise ValidationError(f"file {path!r:.120} of a snapshot has no BLAKE3 digest")
    if not isinstance(size, int) or isinstance(size, bool):
        raise ValidationError(f"file {path!r:.120} of a snapshot has the size {size!r:.120}")
    grant = _first(entry, "transfer_grant", "s3_transfer_grant")
    return SnapshotFile(
        path=path,
        size_bytes=size,
        blake3=parse_blake3(digest),
        url=entry.get("url") or "",
        transfer_grant=grant if isinstance(grant, dict) else None,
    )


def _first(record: Mapping[str, Any], *names: str) -> Any:
    """Return the first value that is set."""
    return next((record[name] for name in names if record.get(name)), None)
