"""Open files and read blocks of them, past the page cache where it holds nothing of them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.formats.damage import DamagedSafetensorsError
from gen_worker.models.formats.headers import Header, header_of
from gen_worker.models.formats.plain_files import open_plain
from gen_worker.models.reader.page_cache import PageCache

if TYPE_CHECKING:
    from contextlib import ExitStack

__all__ = ["SourceFile", "open_direct", "open_source"]

_MOSTLY = 0.5


class SourceFile(NamedTuple):
    """A safetensors file that is open and whose header is sound."""

    path: str
    header: Header
    descriptor: int
    direct: int | None
    """The same file, opened to be read past the page cache; None where that cannot be done."""
    cache: PageCache

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from the file, up to its end; blocks, without the interpreter's lock.

        Raises:
            DamagedSafetensorsError: The file has become shorter.
            ArtifactTransferError: The disk or the network fails.
        """
        end = min(offset + len(buffer), self.header.size_bytes)
        done = self._read_direct(buffer, offset) if self.is_cold(offset, end) else 0
        while offset + done < end:
            done += self._read_some(buffer[done : end - offset], offset + done)

    def is_cold(self, start: int, end: int) -> bool:
        """Tell whether a range is read past the page cache, which holds little of it."""
        if self.direct is None:
            return False
        cached = self.cache.fraction(start, end)
        return cached is not None and cached < _MOSTLY

    def _read_direct(self, buffer: memoryview, offset: int) -> int:
        """Return how many bytes came; the rest is read through the page cache."""
        assert self.direct is not None
        try:
            return os.preadv(self.direct, [buffer], offset)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return 0
            raise self._failure(error) from error

    def _read_some(self, buffer: memoryview, offset: int) -> int:
        try:
            count = os.preadv(self.descriptor, [buffer], offset)
        except OSError as error:
            raise self._failure(error) from error
        if count == 0:
            raise DamagedSafetensorsError(
                self.path,
                "truncated",
                f"it ended at {offset} while it was read, it had {self.header.size_bytes} bytes",
                expected=self.header.size_bytes,
                actual=offset,
            )
        return count

    def _failure(self, error: OSError) -> ArtifactTransferError:
        return ArtifactTransferError(
            f"file {self.path!r} cannot be read, {error.strerror}: check the disk it is on",
            phase="read",
            cause_type=type(error).__name__,
        )


def open_source(path: str, stack: ExitStack) -> SourceFile:
    """Open a file and check its header; `stack` closes it."""
    descriptor, size_bytes = stack.enter_context(open_plain(path))
    header = header_of(descriptor, size_bytes, path)
    direct = open_direct(descriptor)
    if direct is not None:
        stack.callback(os.close, direct)
    return SourceFile(path, header, descriptor, direct, PageCache(descriptor, size_bytes))


def open_direct(descriptor: int) -> int | None:
    """Open the same file once more, to be read past the page cache; None where that cannot be."""
    flag = getattr(os, "O_DIRECT", None)
    if flag is None:
        return None
    try:  # by its descriptor: the name may mean another file by now
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | flag)
    except OSError:
        return None
