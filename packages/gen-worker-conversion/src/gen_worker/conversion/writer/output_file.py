"""One file in the making: a private name, hashed while it is written, visible when it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.errors import ConversionError, OutputSpaceError
from gen_worker.models.store.durable import fsync_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

__all__ = [
    "PART_SUFFIX",
    "OutputFile",
    "WrittenFile",
    "check_space",
    "make_directories",
    "output_directory",
    "remove_empty",
    "remove_parts",
    "write_failure",
    "write_small_file",
]

PART_SUFFIX = ".part"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
_FLUSH_BYTES = 64 << 20
"""How much may wait for the disk: what waits longer is waited for at the end."""
_MARGIN_BYTES = 16 << 20
"""For the file system's own records, an index and a journal."""


class WrittenFile(NamedTuple):
    """A file that is complete and on the disk."""

    path: str
    size_bytes: int
    blake3: str


class OutputFile:
    """A file that appears under its name once `finish` is called, and else leaves nothing.

    As a context manager it is removed when the block is left before `finish`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Make it.

        Raises:
            ConversionError: Its directory cannot be written.
            OutputSpaceError: The disk is full.
        """
        from blake3 import blake3

        self.path = os.fspath(path)
        self.size_bytes = 0
        self._hash = blake3(max_threads=1)  # 3.6 GB/s: no disk here is faster
        self._flushed_bytes = 0
        directory, name = os.path.split(os.path.abspath(self.path))
        self._part = os.path.join(directory, f".{name}.{os.urandom(8).hex()}{PART_SUFFIX}")
        self._is_open = False
        self._made = make_directories(directory)
        try:
            self._descriptor = os.open(self._part, _FLAGS, 0o666)
        except OSError as error:
            remove_empty(self._made)
            raise write_failure(self.path, error) from error
        self._is_open = True

    def write(self, data: memoryview | bytes) -> None:
        """Append bytes; blocks.

        Raises:
            OutputSpaceError: The disk is full.
            ConversionError: It cannot be written.
        """
        rest = memoryview(data)
        self._hash.update(rest)
        self.size_bytes += len(rest)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            self._flush_some()
        except OSError as error:
            raise write_failure(self.path, error) from error

    def _flush_some(self) -> None:
        """Have the disk write while the next slabs are made, instead of all at the end."""
        if self.size_bytes - self._flushed_bytes >= _FLUSH_BYTES:
            start_writeback(self._descriptor, self._flushed_bytes, self.size_bytes)
            self._flushed_bytes = self.size_bytes

    def finish(self) -> WrittenFile:
        """Make the file durable and visible; blocks.

        Raises:
            OutputSpaceError: The disk is full.
            ConversionError: It cannot be written.
        """
        try:
            os.fsync(self._descriptor)
            self._close()
            os.replace(self._part, self.path)
            fsync_directory(os.path.dirname(os.path.abspath(self.path)))
        except OSError as error:
            self.abandon()
            raise write_failure(self.path, error) from error
        self._made = []
        return WrittenFile(self.path, self.size_bytes, str(self._hash.hexdigest()))

    def abandon(self) -> None:
        """Remove what was written, unless the file was finished."""
        self._close()
        if os.path.exists(self._part):
            os.unlink(self._part)
        remove_empty(self._made)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._descriptor)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()


def write_failure(path: str, error: OSError) -> ConversionError:
    """Return what it means that a file cannot be written."""
    if error.errno in _NO_ROOM:
        return OutputSpaceError(
            f"the disk is full: {path!r} was not written; free space there, or choose another "
            "directory",
            file=path,
        )
    return ConversionError(
        f"{path!r} cannot be written, {error.strerror}: check the directory and the disk it is on",
        file=path,
        step="write",
    )


def make_directories(path: str) -> list[str]:
    """Make a directory and those above it; return those that were absent, the innermost first.

    Raises:
        ConversionError: They cannot be made; none of them is left.
        OutputSpaceError: The disk is full.
    """
    absent: list[str] = []
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        absent.append(place)
        place = os.path.dirname(place)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        remove_empty(absent)
        raise write_failure(path, error) from error
    return absent


def remove_empty(directories: Iterable[str]) -> None:
    """Remove directories that have nothing in them; the others stay."""
    for directory in directories:
        with contextlib.suppress(OSError):
            os.rmdir(directory)


@contextlib.contextmanager
def output_directory(path: str) -> Iterator[None]:
    """Have a directory during the block; a failure leaves none that was not there before.

    Raises:
        ConversionError: It cannot be made.
        OutputSpaceError: The disk is full.
    """
    made = make_directories(path)
    try:
        yield
    except BaseException:
        remove_empty(made)
        raise


def write_small_file(path: str, content: bytes) -> None:
    """Write a file in one piece: under its name is the old content, or all of the new.

    Nobody else may be writing it: what a killed process left of it is removed.

    Raises:
        ConversionError: It cannot be written.
        OutputSpaceError: The disk is full.
    """
    directory, name = os.path.split(os.path.abspath(path))
    if os.path.isdir(directory):
        remove_parts(directory, name)
    with OutputFile(path) as file:
        file.write(content)
        file.finish()


def start_writeback(descriptor: int, start: int, end: int) -> None:
    """Ask the system to write these bytes of a file soon; does nothing where it cannot."""
    advise = getattr(os, "posix_fadvise", None)
    if advise is not None:
        # Also forgets those that are written already: no output evicts the source from memory.
        advise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def check_space(directory: str, needed_bytes: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        OutputSpaceError: Names both sizes.
    """
    import shutil

    free = shutil.disk_usage(directory).free
    if free < needed_bytes + _MARGIN_BYTES:
        raise OutputSpaceError(
            f"{directory!r} has {free} bytes free, the output takes {needed_bytes}: free space "
            "there, or choose another directory",
            file=directory,
            needed_bytes=needed_bytes,
            free_bytes=free,
        )


def remove_parts(directory: str, name: str) -> None:
    """Remove what killed processes left of a file; no other may be writing it now."""
    for entry in os.scandir(directory):
        if entry.name.startswith(f".{name}.") and entry.name.endswith(PART_SUFFIX):
            os.unlink(entry.path)
