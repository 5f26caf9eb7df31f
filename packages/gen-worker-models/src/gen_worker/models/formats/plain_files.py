"""Open a file of a model for reading; nothing but a plain file can be one."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from gen_worker.models.formats.damage import WrongFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["files_below", "open_plain", "read_exactly"]


@contextlib.contextmanager
def open_plain(path: str) -> Iterator[tuple[int, int]]:
    """Open `path` and yield its descriptor and size; links are followed.

    Raises:
        OSError: It cannot be opened.
        WrongFormatError: It is a directory, a pipe, a device or a socket.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise WrongFormatError(
                path,
                "wrong_format",
                "it is no plain file",
                expected="a plain file",
                actual=stat.filemode(facts.st_mode),
                remedy="remove it and fetch the model again",
            )
        yield descriptor, facts.st_size
    finally:
        os.close(descriptor)


def read_exactly(descriptor: int, size_bytes: int, offset: int) -> bytes:
    """Return bytes of a file, fewer only at its end."""
    parts: list[bytes] = []
    while size_bytes > 0:
        part = os.pread(descriptor, size_bytes, offset)
        if not part:
            break
        parts.append(part)
        size_bytes -= len(part)
        offset += len(part)
    return b"".join(parts)


def files_below(directory: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each file, and its path relative to `directory` with `/`.

    Links are followed, each directory once: what a library would open must be seen here too.
    """
    seen: set[str] = set()
    for parent, directories, names in os.walk(directory, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            directories.clear()
            continue
        seen.add(place)
        for name in names:
            path = os.path.join(parent, name)
            yield path, os.path.relpath(path, directory).replace(os.sep, "/")
