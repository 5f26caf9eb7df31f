"""Input files that later requests may want, too: shared by processes, bounded, last used kept.

An entry is two files: the content, and a record that names the content's inode, size and time. A
record whose content is another file, or was written to, is no entry: nothing here needs a lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.errors import ResourceError
from gen_worker.runtime.files.workplace import private_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Entry", "InputCache"]

_CONTENT = ".data"
_RECORD = ".json"
_TEMPORARY = ".tmp"
_ORPHAN_AGE_S = 3600.0
_LOOKS_PER_CACHE = 8
"""How often a process looks what is there while it adds as much as there may be."""
_READ_ONLY = 0o444


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file in the cache."""

    sha256: str
    blake3: str
    size_bytes: int
    media_type: str = ""
    """What its server called it."""
    suffix: str = ""
    """What its server called it ended in, where its URL does not say."""
    etag: str = ""
    last_modified: str = ""
    fresh_until: float = 0.0
    """Unix time up to which its server need not be asked whether it changed."""
    may_be_kept: bool = True
    identity: tuple[int, int, int] = (0, 0, 0)
    """Of the content: inode, size and time of the last write."""

    @property
    def conditions(self) -> tuple[tuple[str, str], ...]:
        """Headers that ask for the file if it changed; empty when its server cannot tell."""
        if self.etag:
            return (("If-None-Match", self.etag),)
        return (("If-Modified-Since", self.last_modified),) if self.last_modified else ()


class _Found(NamedTuple):
    used_at: float
    record: str
    content: str
    size_bytes: int


class InputCache:
    """A directory of input files. Processes may share it; thread-safe, blocking.

    A file's place is its key, which says all that decides about its content.
    """

    def __init__(self, directory: str, max_bytes: int) -> None:
        """Name the directory; it is made when the first file is kept.

        Args:
            directory: Used by nothing else.
            max_bytes: Of all content; 0 keeps nothing.
        """
        self._directory = os.path.abspath(directory)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._room_bytes = 0
        """What this process may add before it looks again, as others add, too."""

    def find(self, key: str) -> Entry | None:
        """Return what is kept under a key."""
        if not self._max_bytes:
            return None
        try:
            with open(self._path(key, _RECORD), "rb") as file:
                entry = msgspec.json.decode(file.read(), type=Entry)
            is_here = _identity(os.stat(self._path(key, _CONTENT))) == entry.identity
        except (OSError, msgspec.DecodeError):
            return None
        return entry if is_here else None

    def take(self, key: str, entry: Entry, target: str) -> bool:
        """Give the content another name: a hard link, else a copy. False when it is gone."""
        try:
            _link_or_copy(self._path(key, _CONTENT), target)
            found = os.stat(target)
            if found.st_ino == entry.identity[0]:
                is_same = _identity(found) == entry.identity
            else:  # a copy
                is_same = self.find(key) == entry and found.st_size == entry.size_bytes
            if is_same:
                os.utime(self._path(key, _RECORD))
                return True
        except OSError:
            pass
        with contextlib.suppress(OSError):
            os.unlink(target)
        return False

    def add(self, key: str, path: str, entry: Entry) -> None:
        """Keep a finished file, of which no byte is written any more.

        A cache that cannot be written keeps nothing: that costs time only.
        """
        if entry.size_bytes > self._max_bytes:
            return
        with contextlib.suppress(OSError, ResourceError):
            private_directory(self._directory)
            self._place(key, path, entry)
            self._trim(entry.size_bytes)

    def renew(self, key: str, entry: Entry) -> None:
        """Change what is known of a file that is here."""
        with contextlib.suppress(OSError):
            self._write_record(key, entry)

    def _place(self, key: str, path: str, entry: Entry) -> None:
        temporary = self._new_path()
        try:
            os.chmod(path, _READ_ONLY)
            _link_or_copy(path, temporary)
            identity = _identity(os.stat(temporary))
            os.replace(temporary, self._path(key, _CONTENT))
        finally:
            # Renaming one link of a file to another does nothing.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        self._write_record(key, msgspec.structs.replace(entry, identity=identity))

    def _write_record(self, key: str, entry: Entry) -> None:
        temporary = self._new_path()
        with open(temporary, "xb") as file:
            file.write(msgspec.json.encode(entry))
        os.replace(temporary, self._path(key, _RECORD))

    def _path(self, key: str, kind: str) -> str:
        return os.path.join(self._directory, key + kind)

    def _new_path(self) -> str:
        return os.path.join(self._directory, os.urandom(8).hex() + _TEMPORARY)

    # What has to go

    def _trim(self, more_bytes: int) -> None:
        """Remove what was not used for longest, until all fits again."""
        with self._lock:
            self._room_bytes -= more_bytes
            if self._room_bytes >= 0:
                return
            found = sorted(self._look())
            used = sum(one.size_bytes for one in found)
            for one in found:
                if used <= self._max_bytes:
                    break
                _remove(one.record, one.content)
                used -= one.size_bytes
            self._room_bytes = min(self._max_bytes - used, self._max_bytes // _LOOKS_PER_CACHE)

    def _look(self) -> Iterator[_Found]:
        """Yield the entries, and remove what killed processes left half done."""
        with os.scandir(self._directory) as entries:
            facts = dict(_facts_of(entries))
        for name, fact in facts.items():
            stem, kind = os.path.splitext(name)
            record = facts.get(stem + _RECORD)
            if kind == _CONTENT and record is not None:
                paths = self._path(stem, _RECORD), self._path(stem, _CONTENT)
                yield _Found(record.st_mtime, *paths, fact.st_size)
            elif kind == _TEMPORARY or (kind == _CONTENT and record is None):
                if time.time() - max(fact.st_mtime, fact.st_ctime) > _ORPHAN_AGE_S:
                    _remove(os.path.join(self._directory, name))


def _facts_of(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, os.stat_result]]:
    for entry in entries:
        with contextlib.suppress(OSError):  # gone meanwhile
            yield entry.name, entry.stat(follow_symlinks=False)


def _identity(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
        os.chmod(target, _READ_ONLY)


def _remove(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
