"""Snapshots in use, across processes and crashes, without locks.

A lease is a file below `state/leases/<hex>/` that names its owner. Who evicts first leaves an
intent there and then looks for leases; who leases first leaves the lease and then looks for
intents. So at least one of them sees the other: the evictor gives up, or the reader waits for the
moment the eviction takes and then finds the snapshot gone. What a dead process left is void.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.models.store.durable import private_directory
from gen_worker.models.store.errors import SnapshotNotFoundError
from gen_worker.models.store.heartbeat import beat_for
from gen_worker.models.store.owners import SEPARATOR, is_alive, this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.models.store.places import Places

__all__ = ["Claim", "Leases"]

_BLOBS = "blobs"
"""Stands for a digest where all blobs are meant."""
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_INTENT_PATIENCE_S = 10.0
_POLL_S = 0.001


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a process that fetches and builds a snapshot needs until it is done."""

    blobs: tuple[tuple[str, int], ...] = ()
    """Digest and size of each blob; none of them is removed."""
    extra_bytes: int = 0
    """Room for what will be joined or copied."""


class _Name(NamedTuple):
    """File name of a lease: `<kind>~<owner>~<nonce>`."""

    kind: str
    owner: str
    text: str


class _Held:
    """This process's lease on one snapshot; its users are counted here, not on disk."""

    __slots__ = ("count", "is_settled", "path", "pid")

    def __init__(self, path: str) -> None:
        self.count = 1
        self.is_settled = False
        self.path = path
        self.pid = os.getpid()


class Leases:
    """Leases of one store, taken by this process and seen of others. Thread-safe."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self.files: set[str] = set()
        """Files of this process; touched from time to time for processes on other machines."""

    def __repr__(self) -> str:
        return f"<Leases held={sorted(self._held)}>"

    @contextmanager
    def hold(self, digest: str) -> Iterator[str]:
        """Keep a snapshot here; give its directory.

        Raises:
            SnapshotNotFoundError: It is not here.
        """
        held = self._take(digest)
        try:
            if not held.is_settled:
                self._await_evictions(digest)
                held.is_settled = True
            path = self._places.snapshot(digest)
            if not os.path.isdir(path):
                raise SnapshotNotFoundError(
                    f"snapshot {digest} is not in {self._places.root!r}: fetch it again",
                    digest=digest,
                )
            yield path
        finally:
            self._give_back(digest, held)

    @contextmanager
    def claim(self, digest: str, claim: Claim) -> Iterator[str]:
        """Keep blobs and room for a snapshot that is being fetched; give the claim's name.

        Claims sort by age, so that of two that fetch the same the younger can wait.
        """
        path = self._create(digest, f"claim-{time.time_ns():020d}", msgspec.json.encode(claim))
        try:
            self._await_evictions(digest)
            self._await_evictions(_BLOBS)
            yield os.path.basename(path)
        finally:
            self._remove(path)

    @contextmanager
    def evicting(self, digest: str) -> Iterator[bool]:
        """Say whether the snapshot may be moved away now; nobody leases it meanwhile.

        Must take moments: readers wait for it.
        """
        path = self._create(digest, "evict", b"")
        try:
            yield not self.is_in_use(digest) and os.path.exists(path)
        finally:
            self._remove(path)
            self._remove_directory(digest)

    @contextmanager
    def dropping(self) -> Iterator[Callable[[], bool]]:
        """Announce that blobs go; give what says whether that still stands.

        Must take moments: who claims blobs waits for it.
        """
        path = self._create(_BLOBS, "evict", b"")
        try:
            yield lambda: os.path.exists(path)
        finally:
            self._remove(path)

    def is_in_use(self, digest: str) -> bool:
        """Return whether a live process leases, fetches or builds this snapshot."""
        return any(name.kind != "evict" for name in self._living(digest))

    def users(self, digest: str) -> tuple[str, ...]:
        """Return the live processes that use this snapshot: `<pid> on <host>`."""
        owners = {name.owner for name in self._living(digest) if name.kind != "evict"}
        fields = sorted(owner.split(SEPARATOR) for owner in owners)
        return tuple(f"{pid} on {host}" for host, _, _, pid, _ in fields)

    def claims(self) -> list[tuple[str, str, Claim]]:
        """List the live claims, eldest first: snapshot, name, claim."""
        found = [
            (name.text, digest)
            for digest in _listed(self._places.leases)
            for name in self._living(digest)
            if name.kind.startswith("claim-")
        ]
        read = [(digest, text, self._read(digest, text)) for text, digest in sorted(found)]
        return [(digest, text, claim) for digest, text, claim in read if claim is not None]

    def has_elder(self, digest: str, name: str) -> bool:
        """Return whether a live process claimed the same snapshot before `name` did."""
        return any(
            other.kind.startswith("claim-") and other.text < name for other in self._living(digest)
        )

    def leased(self) -> frozenset[str]:
        """Return the snapshots that live processes use."""
        return frozenset(filter(self.is_in_use, _listed(self._places.leases)))

    def sweep(self, old_s: float) -> None:
        """Remove what is void, and drafts older than `old_s`."""
        for digest in _listed(self._places.leases):
            for text in _listed(self._places.leases_of(digest)):
                path = self._path(digest, text)
                if _parse(text) is None and age_of(self._places, path) > old_s:
                    self._remove(path)
            for _ in self._living(digest):
                continue
            self._remove_directory(digest)

    def forget_parent(self) -> None:
        """Drop what a forked child inherited: the leases stay the parent's."""
        self._held = {}
        self._lock = threading.Lock()
        self.files = set()

    def _take(self, digest: str) -> _Held:
        with self._lock:
            held = self._held.get(digest)
            if held is not None:
                held.count += 1
                return held
            held = self._held[digest] = _Held(self._lease_file(digest))
            return held

    def _lease_file(self, digest: str) -> str:
        try:
            return self._create(digest, "use", b"")
        except OSError as error:
            # Who cannot write here reads what is here, for as long as others leave it.
            if error.errno in _UNWRITABLE:
                return ""
            raise

    def _give_back(self, digest: str, held: _Held) -> None:
        if held.pid != os.getpid():
            return  # taken before a fork, by the parent
        with self._lock:
            held.count -= 1
            if held.count == 0:
                del self._held[digest]
                self._remove(held.path)

    def _create(self, digest: str, kind: str, content: bytes) -> str:
        """Write a whole lease file under a name of its own."""
        text = SEPARATOR.join((kind, this_process(), os.urandom(8).hex()))
        path = self._path(digest, text)
        # A claim is complete before it has its name; readers skip the dot.
        draft = self._path(digest, f".{text}") if content else path
        for attempt in range(100):
            try:
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                break
            except FileNotFoundError:
                if attempt == 99:
                    raise
                os.makedirs(os.path.dirname(draft), exist_ok=True)  # an evictor may remove it
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
        if content:
            os.rename(draft, path)
        self.files.add(path)
        beat_for(self)
        return path

    def _remove(self, path: str) -> None:
        self.files.discard(path)
        try:
            os.unlink(path)
        except OSError:
            return  # voided by another process, or never written where nothing can be

    def _remove_directory(self, digest: str) -> None:
        try:
            os.rmdir(self._places.leases_of(digest))
        except OSError:
            return  # in use

    def _await_evictions(self, digest: str) -> None:
        """Wait until nobody is about to move the snapshot away."""
        deadline = time.monotonic() + _INTENT_PATIENCE_S
        while intents := self._intents(digest):
            if time.monotonic() > deadline:  # a stopped process; it finds its intent voided
                for name in intents:
                    self._remove(self._path(digest, name))
                return
            time.sleep(_POLL_S)

    def _intents(self, digest: str) -> list[str]:
        return [name.text for name in self._living(digest, kind="evict")]

    def _living(self, digest: str, kind: str = "") -> Iterator[_Name]:
        """Yield the files of live processes; void ones are removed."""
        for text in _listed(self._places.leases_of(digest)):
            name = _parse(text)
            if name is None or not name.kind.startswith(kind):
                continue
            path = self._path(digest, text)
            if path in self.files or is_alive(name.owner, self._age_of(path)):
                yield name
            else:
                self._remove(path)

    def _age_of(self, path: str) -> Callable[[], float]:
        return lambda: age_of(self._places, path)

    def _read(self, digest: str, text: str) -> Claim | None:
        try:
            with open(self._path(digest, text), "rb") as file:
                return msgspec.json.decode(file.read(), type=Claim)
        except (OSError, msgspec.MsgspecError):
            return None  # ended meanwhile

    def _path(self, digest: str, text: str) -> str:
        return f"{self._places.leases_of(digest)}/{text}"


def age_of(places: Places, path: str) -> float:
    """Return seconds since a file was touched, by the clock of the machine that stores it."""
    try:
        touched = os.stat(path).st_mtime
    except OSError:
        return float("inf")
    try:
        with private_directory(places) as scratch:
            return os.stat(scratch).st_mtime - touched
    except OSError:
        return time.time() - touched


def _parse(text: str) -> _Name | None:
    kind, _, rest = text.partition(SEPARATOR)
    owner, _, nonce = rest.rpartition(SEPARATOR)
    if not kind or kind[0] == "." or not nonce:
        return None
    return _Name(kind, owner, text)


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
