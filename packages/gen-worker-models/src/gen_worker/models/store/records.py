"""What the store knows of each snapshot: its files, its last use, whether it is whole or pinned.

A record's modification time is the snapshot's last use: one system call keeps it, and it survives
mounts that keep no access times.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from gen_worker.models.store.durable import private_directory, written

if TYPE_CHECKING:
    from gen_worker.models.store.places import Places

__all__ = ["Record", "RecordedFile", "mark_damaged", "read_record", "touch", "write_record"]


class RecordedFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a tree that was built."""

    path: str
    size_bytes: int
    blake3: str
    is_own: bool = False
    """Whether the tree has bytes of its own here instead of sharing a blob's."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot as it was built."""

    digest: str
    files: tuple[RecordedFile, ...]

    @property
    def blobs(self) -> frozenset[str]:
        """Blobs the tree needs while it stands."""
        return frozenset(file.blake3 for file in self.files if not file.is_own)

    @property
    def own_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files if file.is_own)

    @property
    def size_bytes(self) -> int:
        return self.own_bytes + sum(
            {file.blake3: file.size_bytes for file in self.files if not file.is_own}.values()
        )


def read_record(places: Places, digest: str) -> Record | None:
    """Return what was recorded; None for a tree of another worker, or a record beyond reading."""
    for path in (places.record(digest), places.damaged(digest)):
        try:
            with open(path, "rb") as file:
                return msgspec.json.decode(file.read(), type=Record)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return None


def write_record(places: Places, record: Record) -> None:
    with private_directory(places) as scratch:
        written(places.record(record.digest), msgspec.json.encode(record), scratch)


def mark_damaged(places: Places, digest: str) -> None:
    """Have the snapshot rebuilt before it is handed out again."""
    with private_directory(places) as scratch:
        record = read_record(places, digest)
        content = b"" if record is None else msgspec.json.encode(record)
        written(places.damaged(digest), content, scratch)


def touch(places: Places, digest: str) -> None:
    """Note a use; a store that cannot be written evicts nothing and needs no note."""
    for path in (places.record(digest), places.snapshot(digest)):
        try:
            os.utime(path)
            return
        except OSError:
            continue
