"""Writing so that a crash at any moment leaves the old state or the new one, never half of it."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol

from gen_worker.models.store.errors import DiskFullError, ReadOnlyStoreError
from gen_worker.models.store.owners import SEPARATOR, this_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.models.store.places import Places

__all__ = [
    "READ_ONLY",
    "Hash",
    "copy_into",
    "fsync_directory",
    "hash_file",
    "link_or_copy",
    "opened_new",
    "private_directory",
    "publish",
    "remove_tree",
    "writing",
    "written",
]

READ_ONLY = 0o444
_BUFFER_BYTES = 1024 * 1024  # 2.0 GiB/s on a 2-core Xeon in November 2026; of 8 MiB 0.7, mapped 1.8
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)
# A file, perhaps of another program, where a directory has to be.
_NO_PLACE = (errno.ENOTDIR, errno.EEXIST)
# What a file system without hard or symbolic links answers, and one whose links are used up.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS)


class Hash(Protocol):
    """What a hash of any algorithm takes."""

    def update(self, data: memoryview, /) -> object: ...


@contextmanager
def writing(places: Places, what: str, *, always: bool = False) -> Iterator[None]:
    """Turn a full disk and a missing right to write into errors that name the remedy.

    Args:
        places: Whose disk.
        what: What is being written, for the message.
        always: Whether any other failure means that the store cannot be written, too.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFullError(
                f"the disk of {places.root!r} is full: {what} was not written; free space there, "
                "remove models with `gen-worker models rm`, or set TENSORHUB_CACHE_DIR elsewhere",
                path=places.root,
            ) from error
        if always or error.errno in _NO_RIGHT + _NO_PLACE:
            raise ReadOnlyStoreError(
                f"the content store {places.root!r} cannot be written ({error.strerror}): "
                f"{what} needs it; make it writable or set TENSORHUB_CACHE_DIR elsewhere",
                path=places.root,
            ) from error
        raise


@contextmanager
def private_directory(places: Places) -> Iterator[str]:
    """Give a directory that is this process's alone, and remove it with what is left in it."""
    path = os.path.join(places.work, SEPARATOR.join((this_process(), os.urandom(8).hex())))
    os.makedirs(path)
    try:
        yield path
    finally:
        remove_tree(path)


def remove_tree(path: str) -> None:
    """Remove a directory; what resists stays for the next collection."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def opened_new(path: str) -> BinaryIO:
    return open(path, "xb", buffering=0)


def publish(source: str, target: str) -> None:
    """Make a finished private file visible under its name, read-only and durable."""
    directory = os.path.dirname(target)
    os.chmod(source, READ_ONLY)
    _fsync(source)
    os.makedirs(directory, exist_ok=True)
    os.replace(source, target)
    fsync_directory(directory)


def written(path: str, content: bytes, scratch: str) -> None:
    """Write a small file at once, by way of the private directory `scratch`."""
    temporary = os.path.join(scratch, os.urandom(8).hex())
    with opened_new(temporary) as file:
        _write_all(file, content)
        os.fsync(file.fileno())
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.replace(temporary, path)
    fsync_directory(os.path.dirname(path))


def fsync_directory(path: str) -> None:
    """Make the names in a directory durable, where the system can."""
    if os.name == "nt":
        return
    try:
        _fsync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EROFS):  # some network systems
            raise


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: str, target: str, *, final_directory: str) -> bool:
    """Give a file a second name: a hard link, else a symbolic link, else a copy.

    Args:
        source: An absolute path.
        target: A new name.
        final_directory: Where `target` will be moved to; a symbolic link is relative to it.

    Returns:
        Whether the bytes are shared with `source`.
    """
    try:
        os.link(source, target)
        return True
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    try:
        os.symlink(os.path.relpath(source, final_directory), target)
        return True
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    with open(source, "rb", buffering=0) as reader, opened_new(target) as writer:
        copy_into(writer, reader)
        os.fsync(writer.fileno())
    os.chmod(target, READ_ONLY)
    return False


def hash_file(path: str, token: CancelToken | None = None) -> str:
    """Return the BLAKE3 digest of a file in hex.

    Read, not mapped: a mapped file that shrinks meanwhile kills the process.
    """
    with open(path, "rb", buffering=0) as file:
        return copy_into(None, file, token)[0]


def copy_into(
    writer: BinaryIO | None, reader: BinaryIO, token: CancelToken | None = None, *others: Hash
) -> tuple[str, int]:
    """Append what is left of `reader` to `writer`; return its BLAKE3 digest and size.

    Args:
        writer: None only reads.
        reader: Unbuffered.
        token: Looked at for every block.
        others: Hashes that see the same bytes.
    """
    from blake3 import blake3

    digest, size = blake3(max_threads=blake3.AUTO), 0
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    while count := reader.readinto(buffer):  # type: ignore[attr-defined]
        if token is not None:
            token.raise_if_canceled()
        block = buffer[:count]
        digest.update(block)
        for other in others:
            other.update(block)
        if writer is not None:
            _write_all(writer, block)
        size += count
    return digest.hexdigest(), size


def _write_all(file: BinaryIO, content: bytes | memoryview) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
