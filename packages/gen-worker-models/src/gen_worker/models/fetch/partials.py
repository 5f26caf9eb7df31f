"""Partial files: creating, claiming, leaving behind and finishing them.

`<name>.<id>.<owner>.part` holds the bytes, `<name>.<id>.journal` what they are. Only the owner
writes; a partial whose owner is dead changes hands by a rename. A plain `<name>.part` of some
earlier program is adopted the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.fetch.owners import ORPHAN, Owner, is_running, this_process
from gen_worker.models.store.durable import fsync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HEARTBEAT_S", "Partial", "Place", "Rival"]

HEARTBEAT_S = 10.0
"""How often a live owner touches its journal."""
_DEAD_AFTER_S = 120.0
_STRAY_AFTER_S = 600.0
_MAX_STEM_BYTES = 150
_NAME = re.compile(r"\.([0-9a-f]{24})\.([0-9]+-[0-9]+-[0-9a-f]{12})\.part")
_JOURNAL_NAME = re.compile(r"\.([0-9a-f]{24})\.journal")

# Partials that this process works on: its own name on a file is no proof of life.
_held: set[str] = set()
_held_lock = threading.Lock()


class Rival(NamedTuple):
    """A partial of the same file that somebody else is writing."""

    identity: str
    """Sorts by age."""
    journal_bytes: int
    """Grows while it comes forward."""


class Partial:
    """A partial file that this process owns, opened."""

    def __init__(self, place: Place, identity: str, owner: Owner, *, is_new: bool) -> None:
        self.identity = identity
        self.path = place.part_path(identity, owner)
        self.journal_path = place.journal_path(identity)
        self._place = place
        self._closing = threading.Lock()
        self.fd = os.open(self.path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if is_new else 0), 0o666)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self.journal_fd = os.open(self.journal_path, flags, 0o666)
        except BaseException:
            os.close(self.fd)
            raise
        self._inode = os.fstat(self.fd).st_ino

    @property
    def is_ours(self) -> bool:
        """Whether no other process, believing this one dead, took the partial away."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except FileNotFoundError:
            return False

    def read_journal(self) -> bytes:
        size = os.fstat(self.journal_fd).st_size
        return os.pread(self.journal_fd, size, 0)

    def append(self, line: bytes) -> None:
        os.write(self.journal_fd, line)

    def clear_journal(self) -> None:
        os.ftruncate(self.journal_fd, 0)

    def beat(self) -> None:
        """Show that the owner is alive; from any thread, harmless once it is closed."""
        with self._closing, contextlib.suppress(OSError):
            if self.journal_fd >= 0:
                os.utime(self.journal_fd)

    def finish(self, *, durable: bool) -> None:
        """Move the file to its destination, flushed to the disk first if `durable`."""
        if durable:
            os.fsync(self.fd)
        os.rename(self.path, self._place.destination)
        if durable:
            fsync_directory(self._place.directory)
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.journal_path)

    def leave(self) -> None:
        """Leave it to whoever comes next; harmless after `finish`."""
        if self.fd < 0:
            return
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, self._place.part_path(self.identity, ORPHAN))
        self._close()

    def remove(self) -> None:
        """Delete it; harmless after `finish`."""
        if self.fd < 0:
            return
        self._close()
        # The journal goes with the bytes: whoever took those away needs it.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
            os.unlink(self.journal_path)

    def _close(self) -> None:
        with self._closing:
            for fd in (self.fd, self.journal_fd):
                if fd >= 0:
                    os.close(fd)
            self.fd = self.journal_fd = -1
        with _held_lock:
            _held.discard(self.path)


class Place:
    """A destination, and the partials beside it."""

    def __init__(self, destination: str) -> None:
        self.destination = os.path.abspath(destination)
        self.directory, self.name = os.path.split(self.destination)
        raw = os.fsencode(self.name)
        self._stem = self.name
        if len(raw) > _MAX_STEM_BYTES:  # names end at 255 bytes
            self._stem = hashlib.sha256(raw).hexdigest()

    def part_path(self, identity: str, owner: Owner) -> str:
        return os.path.join(self.directory, f"{self._stem}.{identity}.{owner}.part")

    def journal_path(self, identity: str) -> str:
        return os.path.join(self.directory, f"{self._stem}.{identity}.journal")

    def create(self) -> Partial:
        """Make an empty partial."""
        identity, owner = _new_identity(), this_process()
        with _held_lock:
            _held.add(self.part_path(identity, owner))
        return Partial(self, identity, owner, is_new=True)

    def rivals(self, besides: str = "") -> list[Rival]:
        """Return the partials that live processes write, oldest first."""
        found = []
        for identity, owner in self._partials():
            if identity == besides or not self._is_live(identity, owner):
                continue
            found.append(Rival(identity, self._journal_size(identity)))
        return sorted(found)

    def adopt(self) -> Partial | None:
        """Take over the fullest partial whose owner is gone; delete the others'."""
        self._sweep()
        dead = [one for one in self._partials() if not self._is_live(*one)]
        dead.sort(key=lambda one: self._journal_size(one[0]), reverse=True)
        partial = None
        for identity, owner in dead:
            path = self.part_path(identity, owner)
            if partial is not None:
                self._discard(identity, path)
            elif self._journal_size(identity) < 0:  # killed before its first line
                self._discard(identity, path)
            else:
                partial = self._take_over(path, identity)
        return partial

    def adopt_plain(self) -> Partial | None:
        """Take over `<destination>.part`, which an earlier program left."""
        path = f"{self.destination}.part"
        if not os.path.isfile(path) or os.path.islink(path):
            return None
        return self._take_over(path, _new_identity())

    def _take_over(self, path: str, identity: str) -> Partial | None:
        owner = this_process()
        mine = self.part_path(identity, owner)
        with _held_lock:
            if mine in _held:  # another thread was faster
                return None
            try:
                os.rename(path, mine)
            except FileNotFoundError:  # another process was faster
                return None
            _held.add(mine)
        return Partial(self, identity, owner, is_new=False)

    def _partials(self) -> Iterator[tuple[str, Owner]]:
        for name in self._names():
            match = _NAME.fullmatch(name[len(self._stem) :])
            owner = Owner.parse(match[2]) if match else None
            if match is not None and owner is not None:
                yield match[1], owner

    def _is_live(self, identity: str, owner: Owner) -> bool:
        running = is_running(owner)
        if running is None:  # on another machine: only its heartbeat tells
            return self._age_s(identity, owner) < _DEAD_AFTER_S
        if owner == this_process():
            with _held_lock:
                return self.part_path(identity, owner) in _held
        return running

    def _age_s(self, identity: str, owner: Owner) -> float:
        """Return how long a journal was untouched, by the clock of the file system itself."""
        probe = os.path.join(self.directory, f"{self._stem}.{secrets.token_hex(4)}.probe")
        try:
            with open(probe, "xb") as file:
                now = os.fstat(file.fileno()).st_mtime
        except OSError:
            return 0.0
        with contextlib.suppress(OSError):
            os.unlink(probe)
        return now - self._written_at(identity, owner)

    def _written_at(self, identity: str, owner: Owner) -> float:
        """Return when a partial or its journal last changed; 0 when both are gone."""
        times = [0.0]
        for path in (self.part_path(identity, owner), self.journal_path(identity)):
            with contextlib.suppress(FileNotFoundError):
                times.append(os.stat(path).st_mtime)
        return max(times)

    def _journal_size(self, identity: str) -> int:
        try:
            return os.stat(self.journal_path(identity)).st_size
        except FileNotFoundError:
            return -1

    def _discard(self, identity: str, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            os.unlink(self.journal_path(identity))

    def _sweep(self) -> None:
        """Delete journals whose partial was finished by a process that died right then."""
        known = {identity for identity, _ in self._partials()}
        for name in self._names():
            match = _JOURNAL_NAME.fullmatch(name[len(self._stem) :])
            if match is None or match[1] in known:
                continue
            path = os.path.join(self.directory, name)
            with contextlib.suppress(OSError):
                # Not a young one: a directory may hide a file that is being renamed.
                if time.time() - os.stat(path).st_mtime > _STRAY_AFTER_S:
                    os.unlink(path)

    def _names(self) -> list[str]:
        with os.scandir(self.directory) as entries:
            return [entry.name for entry in entries if entry.name.startswith(self._stem + ".")]


def _new_identity() -> str:
    return f"{time.time_ns():016x}{secrets.token_hex(4)}"
