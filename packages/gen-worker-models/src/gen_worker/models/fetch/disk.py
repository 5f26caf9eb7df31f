"""The few system calls that a partial file needs."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import Any

__all__ = ["preallocate", "read_at", "start_writeback", "write_at"]

_SYNC_FILE_RANGE_WRITE = 2
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def preallocate(fd: int, size_bytes: int) -> None:
    """Reserve the disk space of a file, where the file system can, and give it its size.

    Not `os.posix_fallocate`: where the file system cannot, the C library writes the whole file.

    Raises:
        OSError: ENOSPC, before a byte was fetched in vain.
    """
    try:
        call = _libc().fallocate64
    except AttributeError:  # no Linux
        call = None
    if size_bytes and call is not None:
        done = call(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes))
        code = ctypes.get_errno() if done else 0
        if code and code not in _UNSUPPORTED:
            raise OSError(code, os.strerror(code))
    os.ftruncate(fd, size_bytes)


def start_writeback(fd: int, offset: int, size_bytes: int) -> None:
    """Ask for bytes to be written to the disk soon, so that the `fsync` at the end is short."""
    try:
        call = _libc().sync_file_range
    except AttributeError:
        return
    call(fd, ctypes.c_int64(offset), ctypes.c_int64(size_bytes), _SYNC_FILE_RANGE_WRITE)


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """Write all of `view`."""
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count


def read_at(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view`; return how many bytes there were."""
    total = 0
    while total < len(view):
        count = os.preadv(fd, [view[total:]], offset + total)
        if not count:
            break
        total += count
    return total
