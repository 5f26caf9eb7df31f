"""How much of a file is in the page cache, as far as the kernel says."""

from __future__ import annotations

import mmap
import os
from functools import cache
from typing import Any

__all__ = ["PageCache", "populate"]

_CACHESTAT = 451  # the same number on every architecture; Linux 6.5
_MADV_POPULATE_READ = 22  # Linux 5.14


class PageCache:
    """Asks about ranges of one open file."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self._size_bytes = size_bytes

    def fraction(self, start: int, end: int) -> float | None:
        """Return which part of the range is cached; None when it cannot be told."""
        end = min(end, self._size_bytes)
        if end <= start:
            return 1.0
        pages = _cachestat(self._descriptor, start, end)
        if pages is None:
            return self._mincore(start, end)
        first, last = start // mmap.PAGESIZE, -(-end // mmap.PAGESIZE)
        return min(pages / (last - first), 1.0)

    def _mincore(self, start: int, end: int) -> float | None:
        if not self._may_know():
            return None
        import ctypes

        first = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        pages = -(-(end - first) // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * pages)()
        try:
            with mmap.mmap(
                self._descriptor, end - first, access=mmap.ACCESS_COPY, offset=first
            ) as view:
                address = ctypes.c_char.from_buffer(view)
                failed = _libc().mincore(
                    ctypes.c_void_p(ctypes.addressof(address)), ctypes.c_size_t(end - first), states
                )
                del address
        except (OSError, AttributeError):
            return None
        return None if failed else sum(state & 1 for state in states) / pages

    def _may_know(self) -> bool:
        """Of a file that is neither ours nor writable, `mincore` says that all is cached."""
        owner = os.fstat(self._descriptor).st_uid
        return os.geteuid() in (0, owner)


@cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _cachestat(descriptor: int, start: int, end: int) -> int | None:
    import ctypes
    import sys

    if sys.platform != "linux":
        return None
    span = (ctypes.c_uint64 * 2)(start, end - start)
    counts = (ctypes.c_uint64 * 5)()  # cached, dirty, writeback, evicted, recently evicted
    if _libc().syscall(
        ctypes.c_long(_CACHESTAT), descriptor, ctypes.byref(span), ctypes.byref(counts), 0
    ):
        return None
    return int(counts[0])


def populate(view: mmap.mmap, start: int, end: int) -> None:
    """Make the pages of a mapping present, without the interpreter's lock.

    Where the kernel cannot, they come one by one as they are used.
    """
    import ctypes

    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    anchor = ctypes.c_char.from_buffer(view)
    _libc().madvise(
        ctypes.c_void_p(ctypes.addressof(anchor) + first),
        ctypes.c_size_t(end - first),
        _MADV_POPULATE_READ,
    )
    del anchor
