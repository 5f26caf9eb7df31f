"""Keeps a store within its disk and its budget."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.models.store.blobs import discard
from gen_worker.models.store.durable import writing
from gen_worker.models.store.errors import DiskFullError
from gen_worker.models.store.eviction import (
    Eviction,
    evictable_bytes,
    loose_blobs,
    plan_eviction,
)
from gen_worker.models.store.inventory import outstanding_bytes, take_inventory
from gen_worker.models.store.removal import drop_blobs, drop_snapshot, sweep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.store.inventory import Inventory
    from gen_worker.models.store.leases import Leases
    from gen_worker.models.store.places import Places

__all__ = ["Collection", "Space", "Usage"]

_GRACE_S = 600.0
"""How long a blob that nothing needs yet is left alone."""
_PARTIAL_GRACE_S = 86400.0
"""How long `collect` leaves what a download left, so that another can go on with it."""
_TRIES = 4


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a store takes of its disk, in bytes."""

    snapshots: int
    blobs: int
    blob_bytes: int
    own_bytes: int
    """Of files that snapshots have for themselves, such as joined ones."""
    partial_bytes: int
    """Of downloads under way or given up."""
    loose_bytes: int
    """Of blobs that nothing needs; they go first."""
    used_bytes: int
    free_bytes: int
    budget_bytes: int
    reserve_bytes: int


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection removed."""

    snapshots: tuple[str, ...]
    blobs: int
    freed_bytes: int


class _Shortage(NamedTuple):
    short_bytes: int
    free_bytes: int
    promised_bytes: int
    inventory: Inventory


class Space:
    """Room of one store. Thread-safe; one thread of a process evicts at a time."""

    def __init__(
        self,
        places: Places,
        leases: Leases,
        *,
        budget_bytes: int,
        reserve_bytes: int,
    ) -> None:
        self._places = places
        self._leases = leases
        self._budget_bytes = budget_bytes
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()

    def make_room(self, size_bytes: int, *, claim: str = "") -> None:
        """See to it that so many more bytes can be written.

        Args:
            size_bytes: Besides what is claimed.
            claim: Name of a claim that wants its own room; younger ones wait for theirs.

        Raises:
            DiskFullError: Even evicting all that may go would not do; nothing was evicted.
        """
        if self._is_plenty(size_bytes):
            return
        with self._lock:
            for attempt in range(_TRIES):
                shortage = self._shortage(size_bytes, claim)
                if shortage.short_bytes <= 0:
                    return
                if attempt == 0:
                    sweep(self._places, self._leases)
                    shortage = self._shortage(size_bytes, claim)
                plan = self._plan(shortage)
                if plan is None:
                    raise self._disk_full(size_bytes, shortage)
                with writing(self._places, "what an eviction notes"):
                    self._evict(plan, shortage.inventory)
            raise self._disk_full(size_bytes, self._shortage(size_bytes, claim))

    def collect(self, budget_bytes: int | None) -> Collection:
        """Remove what nobody needs, then the least recently used down to a budget."""
        with self._lock, writing(self._places, "what a collection notes"):
            sweep(self._places, self._leases)
            before = self._inventory()
            now = self._now()
            loose = [blob.digest for blob in loose_blobs(before, now - _GRACE_S)]
            old = [x.path for x in before.partials if x.touched_at < now - _PARTIAL_GRACE_S]
            self._evict(Eviction(tuple(loose), tuple(old), (), 0), before)
            budget = self._budget_bytes if budget_bytes is None else budget_bytes
            if budget or budget_bytes is not None:
                self._shrink_to(budget)
            return _difference(before, self._inventory())

    def remove(self, digest: str) -> int:
        """Remove one snapshot and the blobs only it needs; return the bytes freed."""
        with self._lock, writing(self._places, f"the removal of snapshot {digest}"):
            before = self._inventory()
            self._evict(Eviction((), (), (digest,), 0), before)
            after = self._inventory()
            return _difference(before, after).freed_bytes

    def usage(self) -> Usage:
        found = self._inventory()
        return Usage(
            snapshots=len(found.snapshots),
            blobs=len(found.blobs),
            blob_bytes=sum(blob.size_bytes for blob in found.blobs.values()),
            own_bytes=sum(snapshot.own_bytes for snapshot in found.snapshots),
            partial_bytes=sum(blob.allocated_bytes for blob in found.partials),
            loose_bytes=sum(blob.size_bytes for blob in loose_blobs(found, float("inf"))),
            used_bytes=found.used_bytes,
            free_bytes=free_bytes(self._places.root),
            budget_bytes=self._budget_bytes,
            reserve_bytes=self._reserve_bytes,
        )

    def _shrink_to(self, budget_bytes: int) -> None:
        found = self._inventory()
        over = found.used_bytes - budget_bytes
        limits = {"now": self._now(), "grace_s": _GRACE_S}
        if over > 0:
            most = min(over, evictable_bytes(found, **limits))
            plan = plan_eviction(found, most, **limits)
            assert plan is not None, "no more is asked for than there is"
            self._evict(plan, found)

    def _is_plenty(self, size_bytes: int) -> bool:
        """Return whether it fits without a look at what is here."""
        free = free_bytes(self._places.root) - self._reserve_bytes
        return not self._budget_bytes and size_bytes <= free and not self._leases.claims()

    def _shortage(self, size_bytes: int, claim: str) -> _Shortage:
        """Return what is lacking; an inventory is taken only where it matters."""
        free = free_bytes(self._places.root)
        found = self._inventory()
        claims = [x for x in found.claims if not claim or x[1] <= claim]
        promised = outstanding_bytes(found, claims)
        short = size_bytes + promised + self._reserve_bytes - free
        if self._budget_bytes:
            short = max(short, found.used_bytes + size_bytes + promised - self._budget_bytes)
        return _Shortage(short, free, promised, found)

    def _plan(self, shortage: _Shortage) -> Eviction | None:
        return plan_eviction(
            shortage.inventory, shortage.short_bytes, now=self._now(), grace_s=_GRACE_S
        )

    def _evict(self, plan: Eviction, found: Inventory) -> None:
        drop_blobs(self._places, self._leases, plan.blobs)
        for path in plan.partials:
            discard(path)
        gone = [x for x in plan.snapshots if drop_snapshot(self._places, self._leases, x)]
        drop_blobs(self._places, self._leases, _blobs_of(found, gone))

    def _inventory(self) -> Inventory:
        return take_inventory(self._places, self._leases)

    def _now(self) -> float:
        return time.time()

    def _disk_full(self, size_bytes: int, shortage: _Shortage) -> DiskFullError:
        found = shortage.inventory
        evictable = evictable_bytes(found, now=self._now(), grace_s=_GRACE_S)
        needed = size_bytes + shortage.promised_bytes
        limit = f"{_size(self._reserve_bytes)} stay free"
        if self._budget_bytes:
            limit += f", models take {_size(found.used_bytes)} of {_size(self._budget_bytes)}"
        return DiskFullError(
            f"no room for {_size(needed)} in {self._places.root!r}: {_size(shortage.free_bytes)} "
            f"are free ({limit}) and {_size(evictable)} can be evicted, "
            f"{_size(max(0, shortage.short_bytes - evictable))} too few: remove models with "
            "`gen-worker models rm`, free space on that disk, or set TENSORHUB_CACHE_DIR to a "
            "larger one",
            needed_bytes=needed,
            free_bytes=shortage.free_bytes,
            path=self._places.root,
        )


def free_bytes(path: str) -> int:
    """Return what this process may still write on the disk of `path`, which need not exist yet."""
    import shutil

    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


def _blobs_of(found: Inventory, digests: Iterable[str]) -> set[str]:
    gone = set(digests)
    return {blob for x in found.snapshots if x.digest in gone for blob in x.blobs}


def _difference(before: Inventory, after: Inventory) -> Collection:
    kept = {snapshot.digest for snapshot in after.snapshots}
    return Collection(
        snapshots=tuple(x.digest for x in before.snapshots if x.digest not in kept),
        blobs=len(before.blobs.keys() - after.blobs.keys()),
        freed_bytes=max(0, before.used_bytes - after.used_bytes),
    )


def _size(size_bytes: int) -> str:
    """Write a size for people: exact below a MiB."""
    for unit, bytes_per in (("GiB", 1024**3), ("MiB", 1024**2)):
        if size_bytes >= bytes_per:
            return f"{size_bytes / bytes_per:.1f} {unit}"
    return f"{size_bytes} bytes"
