"""Blobs: one file's bytes, named by their digest, read-only once their digest was seen to be right.

A blob that can be written was put there by somebody who did not finish with `publish`; its bytes
are hashed before anything is built from it.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.store.durable import (
    READ_ONLY,
    copy_into,
    hash_file,
    opened_new,
    private_directory,
    publish,
    writing,
)
from gen_worker.models.store.errors import DamagedBlobError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.cancel import CancelToken
    from gen_worker.models.store.places import Places

__all__ = ["Blob", "add_file", "discard", "has_blob", "settle", "walk_blobs"]

_NAME = re.compile(r"([0-9a-f]{64})(.*)", re.DOTALL)
_WRITABLE = 0o222


class Blob(NamedTuple):
    """One file below `blobs`."""

    digest: str
    suffix: str
    """Empty for a finished blob; `.part` and the like for what a download left so far."""
    path: str
    size_bytes: int
    allocated_bytes: int
    inode: int
    touched_at: float


def has_blob(places: Places, digest: str, size_bytes: int) -> bool:
    """Return whether a finished blob of this size is here."""
    try:
        found = os.stat(places.blob(digest))
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size_bytes


def settle(places: Places, digest: str, token: CancelToken | None = None) -> None:
    """See to it that a blob's bytes were hashed once and cannot be written any more.

    Raises:
        DamagedBlobError: They are not what the name says; the blob is gone.
    """
    path = places.blob(digest)
    if os.stat(path).st_mode & _WRITABLE == 0:
        return
    if hash_file(path, token) != digest:
        discard(path)
        raise DamagedBlobError(
            f"blob {digest} in {places.root!r} did not have the bytes of its digest and was "
            "removed: fetch it again",
            digest=digest,
        )
    os.chmod(path, READ_ONLY)


def add_file(
    places: Places, path: str, *, expected: str = "", token: CancelToken | None = None
) -> tuple[str, int]:
    """Copy a file into the store; return its digest and size.

    Raises:
        DamagedBlobError: `expected` is not its digest; nothing was stored.
    """
    try:
        source = open(path, "rb", buffering=0)
    except OSError as error:
        raise ArtifactTransferError(
            f"file {path!r} cannot be read ({error.strerror}): check that it is there",
            phase="ingest",
        ) from error
    with source, writing(places, f"the content of {path!r}"), private_directory(places) as scratch:
        temporary = os.path.join(scratch, "file")
        with opened_new(temporary) as target:
            digest, size = copy_into(target, source, token)
        if expected and digest != expected:
            raise DamagedBlobError(
                f"file {path!r} has the BLAKE3 digest {digest}, expected {expected}: send it again",
                digest=expected,
            )
        if not has_blob(places, digest, size):
            publish(temporary, places.blob(digest))
        return digest, size


def discard(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def walk_blobs(places: Places) -> Iterator[Blob]:
    """Yield every file below `blobs`, unfinished downloads too, in no order."""
    for first in _directories(places.blobs):
        for second in _directories(first):
            yield from _blobs_in(second)


def _blobs_in(directory: str) -> Iterator[Blob]:
    for entry in _entries(directory):
        match = _NAME.fullmatch(entry.name)
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if match is not None and stat.S_ISREG(found.st_mode):
            yield Blob(
                digest=match[1],
                suffix=match[2],
                path=entry.path,
                size_bytes=found.st_size,
                allocated_bytes=getattr(found, "st_blocks", 0) * 512,
                inode=found.st_ino,
                touched_at=found.st_mtime,
            )


def _directories(path: str) -> Iterator[str]:
    return (entry.path for entry in _entries(path) if entry.is_dir(follow_symlinks=False))


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        return []
