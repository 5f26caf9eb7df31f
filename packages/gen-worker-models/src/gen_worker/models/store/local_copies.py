"""Copies of snapshots on a local disk, for stores that are on NFS.

A copy is named by its snapshot's digest: a tag that moves cannot serve an old model. The copies are
a store's snapshots without blobs, so leases, room and leftovers work as they do there.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from gen_worker.models.store.content_store import GIB, ContentStore
from gen_worker.models.store.durable import (
    READ_ONLY,
    copy_into,
    fsync_directory,
    opened_new,
    private_directory,
    writing,
)
from gen_worker.models.store.errors import SnapshotNotFoundError
from gen_worker.models.store.flights import Flights
from gen_worker.models.store.leases import Claim
from gen_worker.models.store.places import Places, hex_of
from gen_worker.models.store.records import Record, RecordedFile, write_record

if TYPE_CHECKING:
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from gen_worker.cancel import CancelToken

    Files = list[tuple[str, int]]

__all__ = ["LocalModelCache"]

_HEADROOM_BYTES = GIB
_FIRST = (".flashpack", ".safetensors")


class LocalModelCache:
    """A directory of copies with a size limit. Thread-safe, and shared by processes."""

    def __init__(self, directory: str | os.PathLike[str], max_cache_size_gb: float = 100.0) -> None:
        """Keep copies below `directory`, which need not exist yet.

        Args:
            directory: On a local disk.
            max_cache_size_gb: What the copies may take, in GiB.
        """
        self._places = Places(directory)
        self._store = ContentStore(
            directory, budget_bytes=int(max_cache_size_gb * GIB), reserve_bytes=_HEADROOM_BYTES
        )
        self._max_gb = max_cache_size_gb
        self._flights = Flights()
        self._lock = threading.Lock()
        self._prefetching: dict[str, Future[str]] = {}

    def __repr__(self) -> str:
        return f"LocalModelCache({self._places.root!r}, {self._max_gb!r})"

    @property
    def directory(self) -> str:
        return self._places.root

    def is_cached(self, digest: str) -> bool:
        return os.path.isdir(self._places.snapshot(hex_of(digest)))

    def get_cached_path(self, digest: str) -> str | None:
        """Return the copy of a snapshot and note the use; None when there is none."""
        return self._store.snapshot(hex_of(digest))

    def lease(self, digest: str) -> AbstractContextManager[str]:
        """Keep a copy while it is used; see `ContentStore.lease`."""
        return self._store.lease(digest)

    async def cache_model(self, digest: str, source: str | os.PathLike[str]) -> str:
        """Return the copy, made in a thread if there is none; see `cache_model_blocking`."""
        import asyncio

        return await asyncio.to_thread(self.cache_model_blocking, digest, source)

    def cache_model_blocking(
        self, digest: str, source: str | os.PathLike[str], token: CancelToken | None = None
    ) -> str:
        """Return the copy of the snapshot in `source`, made if there is none.

        Raises:
            DiskFullError: It does not fit, whatever is evicted.
        """
        return self.cache_model_blocking_with_stats(digest, source, token)[0]

    def cache_model_blocking_with_stats(
        self, digest: str, source: str | os.PathLike[str], token: CancelToken | None = None
    ) -> tuple[str, int | None]:
        """Return the copy and the bytes that were copied; None when it was there already."""
        name = hex_of(digest)
        with self._flights.turn(name, token):
            present = self._store.snapshot(name)
            if present is not None:
                return present, None
            files = _files(name, os.fspath(source))
            claim = Claim(extra_bytes=sum(size for _, size in files))
            with (
                self._store.reserved(name, claim, token),
                writing(self._places, f"the copy of snapshot {name}"),
            ):
                present = self._store.snapshot(name)
                if present is not None:  # another process was faster
                    return present, None
                return self._copy(name, os.fspath(source), files, token)

    def start_prefetch(self, digest: str, source: str | os.PathLike[str]) -> Future[str]:
        """Start copying in a thread of its own; the same for a copy that is under way."""
        from concurrent.futures import Future

        name = hex_of(digest)
        with self._lock:
            if name in self._prefetching:
                return self._prefetching[name]
            future = self._prefetching[name] = Future()
        threading.Thread(
            target=self._prefetch, args=(name, source, future), name="localize", daemon=True
        ).start()
        return future

    def get_stats(self) -> dict[str, object]:
        """Return `cached_models`, `cache_size_gb`, `max_cache_size_gb` and `prefetching`."""
        copies = self._store.snapshots()
        with self._lock:
            prefetching = sorted(self._prefetching)
        return {
            "cached_models": [copy.digest for copy in copies],
            "cache_size_gb": sum(copy.size_bytes for copy in copies) / GIB,
            "max_cache_size_gb": self._max_gb,
            "prefetching": prefetching,
        }

    def _prefetch(self, digest: str, source: str | os.PathLike[str], future: Future[str]) -> None:
        try:
            result = self.cache_model_blocking(digest, source)
        except BaseException as error:  # belongs to whoever asks for the result
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            with self._lock:
                del self._prefetching[digest]

    def _copy(
        self, digest: str, source: str, files: Files, token: CancelToken | None
    ) -> tuple[str, int]:
        with private_directory(self._places) as scratch:
            draft = os.path.join(scratch, "tree")
            try:
                copied = tuple(_copied(source, draft, path, token) for path, _ in files)
            except FileNotFoundError as error:
                raise _gone(digest, source) from error
            for directory, _, _ in os.walk(draft, topdown=False):
                fsync_directory(directory)
            write_record(self._places, Record(digest=digest, files=copied))
            self._publish(draft, self._places.snapshot(digest))
        return self._places.snapshot(digest), sum(file.size_bytes for file in copied)

    def _publish(self, draft: str, target: str) -> None:
        os.makedirs(self._places.snapshots, exist_ok=True)
        try:
            os.rename(draft, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                raise
        fsync_directory(self._places.snapshots)


def _files(digest: str, source: str) -> Files:
    """List path and size of every file, weights first so that what takes long starts early.

    Links are followed: they lead into the store's blobs.
    """
    found = []
    for directory, _, names in os.walk(source):
        for name in names:
            full = os.path.join(directory, name)
            try:
                found.append((os.path.relpath(full, source), os.stat(full).st_size))
            except FileNotFoundError as error:
                raise _gone(digest, source) from error
    if not found:
        raise _gone(digest, source)
    return sorted(found, key=_order)


def _gone(digest: str, source: str) -> SnapshotNotFoundError:
    return SnapshotNotFoundError(
        f"snapshot {digest} is not, or not wholly, in {source!r}: lease it while it is copied, "
        "or fetch it again",
        digest=digest,
    )


def _order(file: tuple[str, int]) -> tuple[int, str]:
    suffix = os.path.splitext(file[0])[1]
    return (_FIRST.index(suffix) if suffix in _FIRST else len(_FIRST), file[0])


def _copied(source: str, draft: str, path: str, token: CancelToken | None) -> RecordedFile:
    target = os.path.join(draft, path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with (
        open(os.path.join(source, path), "rb", buffering=0) as reader,
        opened_new(target) as writer,
    ):
        digest, size = copy_into(writer, reader, token)
        os.fsync(writer.fileno())
    os.chmod(target, READ_ONLY)
    return RecordedFile(path=path, size_bytes=size, blake3=digest, is_own=True)
