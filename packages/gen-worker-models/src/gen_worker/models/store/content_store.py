"""The content store: blobs, and snapshots made of them, shared by processes and workers."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from gen_worker.errors import ArtifactTransferError, ValidationError
from gen_worker.models.store import blobs
from gen_worker.models.store.building import build_tree, missing_blobs
from gen_worker.models.store.durable import hash_file, writing
from gen_worker.models.store.errors import (
    BlobNotFoundError,
    SnapshotInUseError,
    SnapshotNotFoundError,
)
from gen_worker.models.store.flights import Flights
from gen_worker.models.store.inventory import take_inventory
from gen_worker.models.store.leases import Claim, Leases
from gen_worker.models.store.places import Places, hex_of
from gen_worker.models.store.records import touch
from gen_worker.models.store.space import Space
from gen_worker.models.store.trees import expected_extra_bytes
from gen_worker.models.store.verification import verify_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from gen_worker.cancel import CancelToken
    from gen_worker.models.snapshot import Snapshot, SnapshotFile
    from gen_worker.models.store.inventory import StoredSnapshot
    from gen_worker.models.store.space import Collection, Usage
    from gen_worker.models.store.verification import Damage

__all__ = ["GIB", "ContentStore"]

GIB = 1024**3
_LOOK_S = 0.05


class ContentStore:
    """A directory of blobs and snapshots named by their digests.

    Threads and processes, on several machines too, may use one directory at once; any of them may
    be killed at any moment. A digest is 64 hex digits, with or without `blake3:` before them.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        budget_bytes: int = 0,
        reserve_bytes: int = 2 * GIB,
    ) -> None:
        """Use the directory `root`, which need not exist yet.

        Args:
            root: Usually `cas_dir` of the settings.
            budget_bytes: What blobs and snapshots may take; 0 is all but the reserve.
            reserve_bytes: What is kept free on the disk.
        """
        self._places = Places(root)
        self._leases = Leases(self._places)
        self._flights = Flights()
        self._space = Space(
            self._places,
            self._leases,
            budget_bytes=budget_bytes,
            reserve_bytes=reserve_bytes,
        )

    def __repr__(self) -> str:
        return f"ContentStore({self.root!r})"

    @property
    def root(self) -> str:
        return self._places.root

    def check_writable(self) -> None:
        """Prove that files can be created, written and removed.

        Raises:
            ReadOnlyStoreError: They cannot.
            DiskFullError: There is no room for a byte.
        """
        probe = os.path.join(self.root, f".cozy-write-probe-{os.getpid()}")
        with writing(self._places, "any model", always=True):
            os.makedirs(self.root, exist_ok=True)
            try:
                with open(probe, "wb", buffering=0) as file:
                    file.write(b"probe")
                    os.fsync(file.fileno())
            finally:
                with suppress(OSError):
                    os.unlink(probe)

    def blob_path(self, digest: str) -> str:
        """Return where a blob is or will be.

        Who puts a file there by a rename has verified it and made it read-only; a file that can
        be written is hashed before it is used.
        """
        return self._places.blob(hex_of(digest))

    def has_blob(self, digest: str, size_bytes: int) -> bool:
        """Return whether a blob is here, by its size; `verify` reads it."""
        return blobs.has_blob(self._places, hex_of(digest), size_bytes)

    def blob(self, digest: str) -> str:
        """Return the file of a blob, `<algorithm>:<hex>`, its content verified.

        Blobs below `blobs/<hex>` and `blobs/sha256`, as others keep them, are found too.

        Raises:
            ValidationError: This is no digest.
            BlobNotFoundError: It is not here.
            ArtifactTransferError: Its content is damaged.
        """
        name, (algorithm, colon, _) = hex_of(digest), digest.partition(":")
        if not colon:
            raise ValidationError(f"{digest!r} is no digest such as 'blake3:<64 hex digits>'")
        above = os.path.join(self.root, "blobs")
        places = (
            os.path.join(above, algorithm, name[:2], name[2:4], name),
            os.path.join(above, name),
        )
        path = next(filter(os.path.isfile, places), None)
        if path is None:
            raise BlobNotFoundError(
                f"blob {digest} is not in the content store {self.root!r}", phase="lookup"
            )
        if _digest_of(path, algorithm) != name:
            raise ArtifactTransferError(
                f"blob {digest} is damaged: delete it and fetch it again", phase="verify"
            )
        return path

    def add_file(
        self, path: str, *, expected: str = "", token: CancelToken | None = None
    ) -> tuple[str, int]:
        """Copy a file into the store; return its digest in hex and its size.

        Makes room first. Nothing needs the blob yet: what is not part of a snapshot within ten
        minutes may go, unless it is reserved.

        Raises:
            DamagedBlobError: `expected` was given and is not its digest.
            DiskFullError: There is no room.
        """
        expected = hex_of(expected) if expected else ""
        with suppress(OSError):  # reading it will say what is wrong
            self._space.make_room(os.stat(path).st_size)
        return blobs.add_file(self._places, path, expected=expected, token=token)

    def snapshot(self, digest: str) -> str | None:
        """Return the directory of a snapshot and note the use; None when it is not here.

        Reads no file: a snapshot is whole from the moment it is visible. Lease it before use.
        """
        name = hex_of(digest)
        path = self._places.snapshot(name)
        if os.path.isdir(path):
            if os.path.exists(self._places.damaged(name)):
                return None
            touch(self._places, name)
            return path
        prefixed = os.path.join(self._places.snapshots, digest)  # as older workers named it
        return prefixed if ":" in digest and os.path.isdir(prefixed) else None

    def missing(self, snapshot: Snapshot) -> tuple[SnapshotFile, ...]:
        """Return one file for each blob of a snapshot that is not here, largest first.

        What `build` needs; nothing when the snapshot itself is here.
        """
        if self.snapshot(snapshot.digest) is not None:
            return ()
        return missing_blobs(self._places, snapshot)

    def build(
        self,
        snapshot: Snapshot,
        *,
        generated: Mapping[str, bytes] | None = None,
        token: CancelToken | None = None,
    ) -> str:
        """Return the directory of a snapshot, made from its blobs if it is not here.

        Files are hard links to read-only blobs; where the disk has none, symbolic links or
        copies. A file in parts is joined and checked. Threads that want the same wait for one.

        Args:
            snapshot: What to build.
            generated: Content of files that replace or join the snapshot's own; copies of their
                own. The same for every build of one digest.
            token: Ends a long join, and the wait for another thread.

        Raises:
            MissingBlobsError: Fetch its `files` and try again.
            DamagedBlobError: A blob was wrong and is removed; fetch it and try again.
            DiskFullError: There is no room to join parts.
            ValidationError: A list of parts is malformed.
        """
        with self._flights.turn(snapshot.digest, token):
            present = self.snapshot(snapshot.digest)
            if present is not None:
                return present
            with (
                writing(self._places, f"snapshot {snapshot.digest}"),
                self._leases.claim(snapshot.digest, _claim_of(snapshot)) as claim,
            ):
                if expected_extra_bytes(snapshot):
                    self._space.make_room(0, claim=claim)
                return build_tree(self._places, snapshot, generated or {}, token)

    def lease(self, digest: str) -> AbstractContextManager[str]:
        """Keep a snapshot here while it is used; the context gives its directory.

        Other processes see the lease, and a lease of a killed process is void.

        Raises:
            SnapshotNotFoundError: It is not here.
        """
        return self._leases.hold(hex_of(digest))

    @contextmanager
    def reserve(self, snapshot: Snapshot, *, token: CancelToken | None = None) -> Iterator[None]:
        """Hold room for a snapshot while it is fetched and built, and keep the blobs it has.

        Waits while another live process or thread holds the same, so that one of them fetches;
        ask what is `missing` inside. Lease the snapshot before the end.

        Args:
            snapshot: What will be fetched.
            token: Ends the wait.

        Raises:
            DiskFullError: It does not fit, whatever is evicted.
        """
        with self.reserved(snapshot.digest, _claim_of(snapshot), token):
            yield

    @contextmanager
    def reserved(self, digest: str, claim: Claim, token: CancelToken | None) -> Iterator[None]:
        """Do what `reserve` does, for whoever knows what will be written."""
        with ExitStack() as held:
            with writing(self._places, f"snapshot {digest}"):
                name = held.enter_context(self._leases.claim(digest, claim))
            while self.snapshot(digest) is None and self._leases.has_elder(digest, name):
                _pause(token)
            if self.snapshot(digest) is None:
                self._space.make_room(0, claim=name)
            yield

    def make_room(self, size_bytes: int) -> None:
        """See to it that so many more bytes fit, besides what others reserved.

        Evicts what nobody needs, then what dead downloads left, then snapshots by last use; never
        one that is leased or pinned.

        Raises:
            DiskFullError: It would not do; nothing was evicted.
        """
        self._space.make_room(size_bytes)

    def pin(self, digest: str) -> None:
        """Never evict a snapshot, whether it is here already or not, until `unpin`."""
        path = self._places.pin(hex_of(digest))
        with writing(self._places, "a pin"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

    def unpin(self, digest: str) -> None:
        with writing(self._places, "the removal of a pin"):
            blobs.discard(self._places.pin(hex_of(digest)))

    def collect(self, budget_bytes: int | None = None) -> Collection:
        """Remove what nobody needs, and snapshots by last use until the rest fits a budget.

        Blobs that are needed by nothing yet stay for ten minutes, given-up downloads for a day.

        Args:
            budget_bytes: Default the store's own; 0 evicts all that may go.
        """
        return self._space.collect(budget_bytes)

    def remove(self, digest: str) -> int:
        """Remove a snapshot, its pin and the blobs only it needs; return the bytes freed.

        Raises:
            SnapshotNotFoundError: It is not here.
            SnapshotInUseError: A process uses it.
        """
        name = hex_of(digest)
        if not os.path.isdir(self._places.snapshot(name)):
            raise SnapshotNotFoundError(
                f"snapshot {name} is not in {self.root!r}: there is nothing to remove", digest=name
            )
        freed = self._space.remove(name)
        if os.path.isdir(self._places.snapshot(name)) and self._leases.is_in_use(name):
            users = ", ".join(self.users(name)) or "another one"
            raise SnapshotInUseError(
                f"snapshot {name} is in use by process {users}: end it and remove it then",
                digest=name,
            )
        self.unpin(name)
        return freed

    def users(self, digest: str) -> tuple[str, ...]:
        """Return the live processes that use a snapshot: `<pid> on <host>`."""
        return self._leases.users(hex_of(digest))

    def verify(
        self, digest: str | None = None, *, token: CancelToken | None = None
    ) -> tuple[Damage, ...]:
        """Read one snapshot, or everything, again; return what did not have its digest.

        A damaged blob is removed, and the snapshots that use it are rebuilt before their next use:
        `snapshot` does not give them, `missing` lists what to fetch, `build` mends them in place.
        """
        name = None if digest is None else hex_of(digest)
        with writing(self._places, "the removal of what is damaged"):
            return verify_store(self._places, self._leases, name, token)

    def usage(self) -> Usage:
        """Return what the store takes of its disk."""
        return self._space.usage()

    def snapshots(self) -> tuple[StoredSnapshot, ...]:
        """List the snapshots that are here, least recently used first."""
        return take_inventory(self._places, self._leases).snapshots


def _pause(token: CancelToken | None) -> None:
    """Wait a little for another process, which cannot tell this one that it is done."""
    if token is None:
        time.sleep(_LOOK_S)
    elif token.wait(_LOOK_S):
        token.raise_if_canceled()


def _claim_of(snapshot: Snapshot) -> Claim:
    distinct = {file.blake3: file.size_bytes for file in snapshot.files}
    return Claim(blobs=tuple(distinct.items()), extra_bytes=expected_extra_bytes(snapshot))


def _digest_of(path: str, algorithm: str) -> str:
    if algorithm == "blake3":
        return hash_file(path)
    from hashlib import file_digest

    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
