"""The files of a checkpoint's directory: made durable, listed with hashes, looked at again."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from gen_worker.models.store.durable import fsync_directory, hash_file
from gen_worker.trainer.checkpoints.values import StoredFile
from gen_worker.trainer.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["made_durable", "size_of", "verify_files", "write_file"]


def made_durable(directory: str) -> dict[str, StoredFile]:
    """Have all files of a directory on disk, and return them with their hashes.

    Raises:
        CheckpointError: There is a link or a device in it.
    """
    files: dict[str, StoredFile] = {}
    for path, name in _files_in(directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            size_bytes = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        files[name] = StoredFile(size_bytes, hash_file(path))
    for folder, _, _ in os.walk(directory, topdown=False):
        fsync_directory(folder)
    return files


def verify_files(directory: str, files: Mapping[str, StoredFile]) -> None:
    """Look at every byte of a checkpoint.

    Raises:
        CheckpointError: A file is missing, or not what was written; the message names it.
    """
    for name, expected in files.items():
        path = os.path.join(directory, *name.split("/"))
        try:
            size_bytes = os.stat(path, follow_symlinks=False).st_size
            is_same = size_bytes == expected.size_bytes and hash_file(path) == expected.blake3
        except OSError as error:
            raise CheckpointError(f"{path!r} is missing: {error.strerror}", path=path) from error
        if not is_same:
            raise CheckpointError(
                f"{path!r} is not what was written: it has {size_bytes} bytes, "
                f"{expected.size_bytes} were written",
                path=path,
            )


def size_of(directory: str) -> int:
    """Return the bytes of all files in a directory."""
    paths = (
        os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names
    )
    return sum(os.lstat(path).st_size for path in paths)


def write_file(path: str, content: bytes) -> None:
    """Put a small file where it is whole or not there, even if the power fails."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    fsync_directory(folder)


def _files_in(directory: str) -> Iterator[tuple[str, str]]:
    """Yield path and name of each file, by name."""
    for folder, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted([*names, *(one for one in folders if _is_link(folder, one))]):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode):
                kind = "a link" if stat.S_ISLNK(mode) else "no plain file"
                raise CheckpointError(
                    f"{path!r} is {kind}, and a checkpoint is to hold all that it needs: "
                    "copy the file there",
                    path=path,
                )
            yield path, os.path.relpath(path, directory).replace(os.sep, "/")


def _is_link(folder: str, name: str) -> bool:
    return os.path.islink(os.path.join(folder, name))
