"""Decides what has to go so that something else fits. Pure: facts in, names out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gen_worker.models.store.blobs import Blob
    from gen_worker.models.store.inventory import Inventory, StoredSnapshot

__all__ = ["Eviction", "evictable_bytes", "loose_blobs", "plan_eviction"]


class Eviction(NamedTuple):
    """What to remove, in this order."""

    blobs: tuple[str, ...]
    """Blobs that nothing needs."""
    partials: tuple[str, ...]
    """Paths of what dead downloads left."""
    snapshots: tuple[str, ...]
    """Damaged ones, then least recently used first; the blobs only they need go with them."""
    freed_bytes: int


def plan_eviction(
    inventory: Inventory, short_bytes: int, *, now: float, grace_s: float
) -> Eviction | None:
    """Choose what frees `short_bytes`; None when all that may go would not.

    What nobody needs goes first, then what dead downloads left, then snapshots by last use. What
    is leased, pinned or claimed stays, and so does what was touched within `grace_s` by a process
    that may not have said yet what it is for.
    """
    blobs, partials, snapshots, freed = [], [], [], 0
    for blob in loose_blobs(inventory, now - grace_s):
        if freed >= short_bytes:
            break
        blobs.append(blob.digest)
        freed += blob.size_bytes
    for partial in _dead_partials(inventory, now - grace_s):
        if freed >= short_bytes:
            break
        partials.append(partial.path)
        freed += partial.allocated_bytes
    users = _users(inventory)
    for snapshot in _idle_snapshots(inventory):
        if freed >= short_bytes:
            break
        snapshots.append(snapshot.digest)
        freed += snapshot.own_bytes + _release(inventory, snapshot, users)
    if freed < short_bytes:
        return None
    return Eviction(tuple(blobs), tuple(partials), tuple(snapshots), freed)


def evictable_bytes(inventory: Inventory, *, now: float, grace_s: float) -> int:
    """Return what evicting all that may go would free."""
    users = _users(inventory)
    return (
        sum(blob.size_bytes for blob in loose_blobs(inventory, now - grace_s))
        + sum(x.allocated_bytes for x in _dead_partials(inventory, now - grace_s))
        + sum(x.own_bytes + _release(inventory, x, users) for x in _idle_snapshots(inventory))
    )


def loose_blobs(inventory: Inventory, touched_before: float) -> list[Blob]:
    """Return the blobs that nothing needs, oldest first."""
    users = _users(inventory)
    loose = [
        blob
        for digest, blob in inventory.blobs.items()
        if digest not in users and blob.touched_at <= touched_before
    ]
    return sorted(loose, key=lambda blob: (blob.touched_at, blob.digest))


def _dead_partials(inventory: Inventory, touched_before: float) -> list[Blob]:
    claimed = inventory.claimed
    return sorted(
        (
            x
            for x in inventory.partials
            if x.touched_at <= touched_before and x.digest not in claimed
        ),
        key=lambda partial: (partial.touched_at, partial.path),
    )


def _idle_snapshots(inventory: Inventory) -> list[StoredSnapshot]:
    idle = [x for x in inventory.snapshots if not x.is_leased and not x.is_pinned]
    return sorted(idle, key=lambda snapshot: (not snapshot.is_damaged, snapshot.last_use))


def _users(inventory: Inventory) -> dict[str, int]:
    """Count who needs each blob: snapshots, and claims as one more."""
    users = dict.fromkeys(inventory.claimed, 1)
    for snapshot in inventory.snapshots:
        for digest in snapshot.blobs:
            users[digest] = users.get(digest, 0) + 1
    return users


def _release(inventory: Inventory, snapshot: StoredSnapshot, users: dict[str, int]) -> int:
    """Take a snapshot out of the count; return the bytes of the blobs only it needed."""
    freed = 0
    for digest in snapshot.blobs:
        users[digest] -= 1
        blob = inventory.blobs.get(digest)
        if users[digest] == 0 and blob is not None:
            freed += blob.size_bytes
    return freed
