"""Takes snapshots and blobs away while other processes may be reaching for them."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from gen_worker.models.store.blobs import discard
from gen_worker.models.store.durable import private_directory, remove_tree
from gen_worker.models.store.inventory import needed_blobs
from gen_worker.models.store.leases import age_of
from gen_worker.models.store.owners import SEPARATOR, is_alive
from gen_worker.models.store.places import is_hex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.store.leases import Leases
    from gen_worker.models.store.places import Places

__all__ = ["drop_blobs", "drop_snapshot", "sweep"]

_ASIDE = "blobs"
_OLD_S = 3600.0
_VERY_OLD_S = 86400.0


def drop_snapshot(places: Places, leases: Leases, digest: str) -> bool:
    """Remove a snapshot that nobody uses; return whether this call did.

    Its blobs stay.
    """
    with private_directory(places) as scratch:
        aside = os.path.join(scratch, digest)
        with leases.evicting(digest) as may_go:
            if not may_go:
                return False
            try:
                os.rename(places.snapshot(digest), aside)
            except FileNotFoundError:
                return False  # another process was faster
            if leases.is_in_use(digest):  # this process stood still, and a reader went ahead
                _put_back(aside, places.snapshot(digest))
                return False
            discard(places.record(digest))
            discard(places.damaged(digest))
        return True


def drop_blobs(places: Places, leases: Leases, digests: Iterable[str]) -> int:
    """Remove blobs that nothing needs; return the bytes that were freed.

    They are moved aside before it is asked who needs them: who claims one from then on sees that
    it is missing, and who claimed it before is seen here.
    """
    with private_directory(places) as scratch:
        aside = os.path.join(scratch, _ASIDE)
        os.mkdir(aside)
        moved = [digest for digest in digests if _move(places.blob(digest), aside)]
        needed = needed_blobs(places, leases) if moved else frozenset()
        freed = 0
        for digest in moved:
            path = os.path.join(aside, digest)
            if digest in needed:
                _put_back(path, places.blob(digest))
            else:
                freed += os.stat(path).st_size
                os.unlink(path)
        return freed


def sweep(places: Places, leases: Leases) -> None:
    """Remove what dead processes left half done; blobs they had put aside come back first."""
    for name in _listed(places.work):
        path = os.path.join(places.work, name)
        owner = name.rpartition(SEPARATOR)[0]
        if not is_alive(owner, partial(age_of, places, path), _VERY_OLD_S):
            for digest in filter(is_hex, _listed(os.path.join(path, _ASIDE))):
                _put_back(os.path.join(path, _ASIDE, digest), places.blob(digest))
            remove_tree(path)
    for name in _listed(places.snapshots):
        path = os.path.join(places.snapshots, name)
        if name.endswith(".building") and age_of(places, path) > _OLD_S:  # another worker's
            remove_tree(path)
    for name in _listed(places.records):
        digest = name.removesuffix(".damaged")
        path = os.path.join(places.records, name)
        if not os.path.isdir(places.snapshot(digest)) and age_of(places, path) > _OLD_S:
            discard(path)
    leases.sweep(_OLD_S)


def _move(path: str, directory: str) -> bool:
    try:
        os.rename(path, os.path.join(directory, os.path.basename(path)))
    except FileNotFoundError:
        return False
    return True


def _put_back(source: str, target: str) -> None:
    """Undo a move; if there is a new one in the meantime, that one stays."""
    try:
        if not os.path.exists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(source, target)
    except OSError:
        return


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
