"""Reads every byte again and takes out of service what does not have its digest."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.store.blobs import discard
from gen_worker.models.store.durable import READ_ONLY, hash_file
from gen_worker.models.store.errors import SnapshotNotFoundError
from gen_worker.models.store.inventory import take_inventory
from gen_worker.models.store.records import mark_damaged, read_record
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.models.store.blobs import Blob
    from gen_worker.models.store.inventory import Inventory, StoredSnapshot
    from gen_worker.models.store.leases import Leases
    from gen_worker.models.store.places import Places
    from gen_worker.models.store.records import RecordedFile

__all__ = ["Damage", "verify_store"]

_THREADS = 4


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that were not what they should be; they are fetched again when they are needed."""

    blake3: str
    """What the digest should have been."""
    path: str
    """The blob, which was removed, or the file of a snapshot, which will be replaced."""
    snapshots: tuple[str, ...]
    """Snapshots that use it; each is rebuilt before its next use."""


def verify_store(
    places: Places, leases: Leases, digest: str | None, token: CancelToken | None
) -> tuple[Damage, ...]:
    """Check one snapshot with its blobs, or everything."""
    found = take_inventory(places, leases)
    snapshots = [x for x in found.snapshots if digest in (None, x.digest)]
    if digest is None:
        blobs = list(found.blobs.values())
    else:
        needed = {name for x in snapshots for name in x.blobs}
        blobs = [blob for name, blob in found.blobs.items() if name in needed]
    bad = _bad_blobs(blobs, token)
    damages = list(_of_blobs(found, bad))
    for snapshot in snapshots:
        with suppress(SnapshotNotFoundError), leases.hold(snapshot.digest):  # else evicted by now
            damages += _bad_files(places, found, snapshot, bad, token)
    for name in sorted({name for damage in damages for name in damage.snapshots}):
        mark_damaged(places, name)
    return tuple(damages)


def _bad_blobs(blobs: Iterable[Blob], token: CancelToken | None) -> dict[str, Blob]:
    """Remove blobs that are not what their names say."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_THREADS, "verify") as pool:
        checked = list(
            pool.map(lambda blob: (blob, _is_right(blob.path, blob.digest, token)), blobs)
        )
    bad = {blob.digest: blob for blob, is_right in checked if not is_right}
    for blob in bad.values():
        if _is_still(blob):
            discard(blob.path)
    return bad


def _is_right(path: str, digest: str, token: CancelToken | None) -> bool:
    if token is not None:
        token.raise_if_canceled()
    try:
        if hash_file(path, token) != digest:
            return False
        if os.stat(path).st_mode & 0o222:
            with suppress(PermissionError):  # another user's: not ours to protect
                os.chmod(path, READ_ONLY)
    except FileNotFoundError:
        pass  # evicted meanwhile
    return True


def _is_still(blob: Blob) -> bool:
    """Return whether the file that was read has not been replaced by a new one since."""
    try:
        return os.stat(blob.path).st_ino == blob.inode
    except FileNotFoundError:
        return False


def _of_blobs(found: Inventory, bad: dict[str, Blob]) -> Iterator[Damage]:
    for digest, blob in sorted(bad.items()):
        users = sorted(x.digest for x in found.snapshots if digest in x.blobs)
        yield Damage(blake3=digest, path=blob.path, snapshots=tuple(users))


def _bad_files(
    places: Places,
    found: Inventory,
    snapshot: StoredSnapshot,
    bad: dict[str, Blob],
    token: CancelToken | None,
) -> Iterator[Damage]:
    """Yield the files of a snapshot that are wrong while no blob of theirs is."""
    inodes = {blob.inode for blob in found.blobs.values()}
    record = read_record(places, snapshot.digest)
    for file in () if record is None else record.files:
        path = _inside(snapshot.path, file)
        if file.blake3 not in bad and not _is_whole(path, file, inodes, token):
            yield Damage(
                blake3=file.blake3, path=path or snapshot.path, snapshots=(snapshot.digest,)
            )


def _inside(root: str, file: RecordedFile) -> str:
    try:
        return safe_join(root, file.path)
    except ValidationError:
        return ""  # somebody wrote the record by hand


def _is_whole(path: str, file: RecordedFile, inodes: set[int], token: CancelToken | None) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    if found.st_size != file.size_bytes:
        return False
    # A file that is a blob of this size was read as that blob.
    return (not file.is_own and found.st_ino in inodes) or _is_right(path, file.blake3, token)
