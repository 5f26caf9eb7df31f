"""What is in a store right now: snapshots, blobs, who needs which."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.models.store.blobs import walk_blobs
from gen_worker.models.store.places import is_hex
from gen_worker.models.store.records import Record, read_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gen_worker.models.store.blobs import Blob
    from gen_worker.models.store.leases import Claim, Leases
    from gen_worker.models.store.places import Places

__all__ = ["Inventory", "StoredSnapshot", "needed_blobs", "outstanding_bytes", "take_inventory"]


class StoredSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that is here."""

    digest: str
    path: str
    size_bytes: int
    """With its blobs, which other snapshots may share."""
    own_bytes: int
    """Bytes in files of its own."""
    files: int
    last_use: float
    """Seconds since the epoch."""
    is_leased: bool
    is_pinned: bool
    is_damaged: bool
    """It is rebuilt before it is used again."""
    blobs: frozenset[str]


class Inventory(NamedTuple):
    """A store at one moment."""

    snapshots: tuple[StoredSnapshot, ...]
    """Least recently used first."""
    blobs: Mapping[str, Blob]
    partials: tuple[Blob, ...]
    """What downloads that are under way, or died, left so far."""
    claims: Sequence[tuple[str, str, Claim]]
    """Snapshot, name, claim; eldest first."""

    @property
    def used_bytes(self) -> int:
        return (
            sum(blob.size_bytes for blob in self.blobs.values())
            + sum(blob.allocated_bytes for blob in self.partials)
            + sum(snapshot.own_bytes for snapshot in self.snapshots)
        )

    @property
    def claimed(self) -> frozenset[str]:
        """Blobs that live processes fetch or build with."""
        return _claimed(self.claims)


def take_inventory(places: Places, leases: Leases) -> Inventory:
    """Look at everything; the claims first, so that none of their blobs seems unused."""
    claims = leases.claims()
    leased = leases.leased()
    found = list(walk_blobs(places))
    blobs = {blob.digest: blob for blob in found if not blob.suffix}
    inodes = {blob.inode: blob.digest for blob in blobs.values()}
    snapshots = [
        _stored(places, digest, digest in leased, inodes) for digest in _snapshot_names(places)
    ]
    return Inventory(
        snapshots=tuple(sorted(snapshots, key=lambda snapshot: snapshot.last_use)),
        blobs=blobs,
        partials=tuple(blob for blob in found if blob.suffix),
        claims=claims,
    )


def needed_blobs(places: Places, leases: Leases) -> frozenset[str]:
    """Return the blobs that snapshots or live processes need now."""
    needed = _claimed(leases.claims())
    for name in _snapshot_names(places):
        record = read_record(places, name)
        facts = _recorded(record) if record else _foreign(places.snapshot(name), {})
        needed |= facts.blobs
    return needed


def _claimed(claims: Sequence[tuple[str, str, Claim]]) -> frozenset[str]:
    return frozenset(digest for _, _, claim in claims for digest, _ in claim.blobs)


def outstanding_bytes(inventory: Inventory, claims: Sequence[tuple[str, str, Claim]]) -> int:
    """Return what `claims` will still write; what several of them need counts once."""
    wanted = {digest: size for _, _, claim in claims for digest, size in claim.blobs}
    started: dict[str, int] = {}
    for partial in inventory.partials:
        started[partial.digest] = started.get(partial.digest, 0) + partial.allocated_bytes
    extra: dict[str, int] = {}
    for snapshot, _, claim in claims:
        extra[snapshot] = max(extra.get(snapshot, 0), claim.extra_bytes)
    return sum(extra.values()) + sum(
        max(0, size - started.get(digest, 0))
        for digest, size in wanted.items()
        if digest not in inventory.blobs
    )


def _snapshot_names(places: Places) -> list[str]:
    try:
        names = os.listdir(places.snapshots)
    except OSError:
        return []
    return list(filter(is_hex, names))


def _stored(
    places: Places, digest: str, is_leased: bool, inodes: Mapping[int, str]
) -> StoredSnapshot:
    path = places.snapshot(digest)
    record = read_record(places, digest)
    facts = _recorded(record) if record is not None else _foreign(path, inodes)
    return StoredSnapshot(
        digest=digest,
        path=path,
        size_bytes=facts.size_bytes,
        own_bytes=facts.own_bytes,
        files=facts.files,
        last_use=_touched(places.record(digest)) or _touched(path),
        is_leased=is_leased,
        is_pinned=os.path.exists(places.pin(digest)),
        is_damaged=os.path.exists(places.damaged(digest)),
        blobs=facts.blobs,
    )


def _touched(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


class _Facts(NamedTuple):
    size_bytes: int
    own_bytes: int
    files: int
    blobs: frozenset[str]


def _recorded(record: Record) -> _Facts:
    return _Facts(record.size_bytes, record.own_bytes, len(record.files), record.blobs)


def _foreign(path: str, inodes: Mapping[int, str]) -> _Facts:
    """Look into a tree that another worker made and nothing was recorded of."""
    size, own, count, blobs = 0, 0, 0, set()
    for entry in _files(path):
        try:
            target = os.path.realpath(entry.path) if entry.is_symlink() else ""
            found = os.stat(entry.path)
        except OSError:
            continue
        shared = os.path.basename(target) or inodes.get(found.st_ino, "")
        if shared:
            blobs.add(shared)
        elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            own += found.st_size
        size += found.st_size
        count += 1
    return _Facts(size, own, count, frozenset(blobs))


def _files(path: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            listed = list(entries)
    except OSError:
        return
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        else:
            yield entry
