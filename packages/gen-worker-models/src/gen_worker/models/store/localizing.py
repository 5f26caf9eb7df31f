"""Decides whether a model is read from where it is or from a copy on the local disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.store.errors import DiskFullError
from gen_worker.models.store.mounts import Volume, read_mountinfo, volume_of

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken
    from gen_worker.models.store.local_copies import LocalModelCache

__all__ = ["Localized", "localize"]


class Localized(NamedTuple):
    """Where a model is read from, and what getting it there took: the metrics of one model."""

    path: str
    disk_fstype: str
    disk_backend: str
    localized: bool
    nfs_to_local_copy_ms: int
    bytes_copied: int


def localize(
    path: str,
    digest: str,
    cache: LocalModelCache,
    *,
    mountinfo: str | None = None,
    token: CancelToken | None = None,
) -> Localized:
    """Return where to read a snapshot from: a local copy when its directory is on NFS.

    A cache that is on NFS itself, or has no room, leaves the model where it is.

    Args:
        path: The snapshot's directory; lease it meanwhile.
        digest: Its digest.
        cache: Where copies are kept.
        mountinfo: Default what the kernel says; see `read_mountinfo`.
        token: Ends the copying.
    """
    mounts = read_mountinfo() if mountinfo is None else mountinfo
    volume = volume_of(path, mounts)
    if not volume.is_network or volume_of(cache.directory, mounts).is_network:
        return _in_place(path, volume)
    start = time.monotonic()
    try:
        local, copied = cache.cache_model_blocking_with_stats(digest, path, token)
    except DiskFullError:
        return _in_place(path, volume)
    took_ms = round((time.monotonic() - start) * 1000) if copied is not None else 0
    return Localized(local, volume.fstype, volume.backend, True, took_ms, copied or 0)


def _in_place(path: str, volume: Volume) -> Localized:
    return Localized(path, volume.fstype, volume.backend, False, 0, 0)
