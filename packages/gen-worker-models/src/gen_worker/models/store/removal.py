"""Takes snapshots and blobs away while other processes may be reaching for them."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from gen_worker.models.store.blobs import discard
from gen_worker.models.store.durable import private_directory, remove_tree
from gen_worker.models.store.inventory import needed_blobs
from gen_worker.models.store.leases import age_of
from gen_worker.models.store.owners import SEPARATOR, is_alive

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.store.leases import Leases
    from gen_worker.models.store.places import Places

__all__ = ["drop_blobs", "drop_snapshot", "sweep"]

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
                with suppress(OSError):  # there is a new one in the meantime
                    os.rename(aside, places.snapshot(digest))
                return False
            discard(places.record(digest))
            discard(places.damaged(digest))
        return True


def drop_blobs(places: Places, leases: Leases, digests: Iterable[str]) -> None:
    """Remove those of these blobs that nothing needs.

    It is announced before it is asked who needs them: who claims one from then on waits, and who
    claimed it before is seen here.
    """
    wanted = set(digests)
    if not wanted:
        return
    with leases.dropping() as is_announced:
        for digest in wanted - needed_blobs(places, leases):
            if not is_announced():  # this process stood still, and others went ahead
                return
            discard(places.blob(digest))


def sweep(places: Places, leases: Leases) -> None:
    """Remove what dead processes left half done."""
    for name in _listed(places.work):
        path = os.path.join(places.work, name)
        owner = name.rpartition(SEPARATOR)[0]
        if not is_alive(owner, partial(age_of, places, path), _VERY_OLD_S):
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


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
