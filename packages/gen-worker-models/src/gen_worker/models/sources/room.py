"""Whether a disk has room, for files that the content store does not keep."""

from __future__ import annotations

from gen_worker.models.store.errors import DiskFullError
from gen_worker.models.store.space import free_bytes

__all__ = ["require_room"]


def require_room(directory: str, size_bytes: int, reserve_bytes: int) -> None:
    """Refuse a download that does not fit, before a byte of it moves.

    Raises:
        DiskFullError: It would leave less than the reserve.
    """
    free = free_bytes(directory)
    if size_bytes and size_bytes + reserve_bytes > free:
        raise DiskFullError(
            f"{size_bytes} bytes do not fit on the disk of {directory!r}: it has {free} free, and "
            f"{reserve_bytes} stay free: remove something, or keep the cache elsewhere",
            needed_bytes=size_bytes,
            free_bytes=free,
            path=directory,
        )
