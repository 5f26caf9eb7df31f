"""The jobs of a fetch, each done by one thread: open, hash, finish, and one request at a time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from gen_worker.errors import ArtifactTransferError, CanceledError
from gen_worker.models.fetch.digests import hash_file, new_hasher
from gen_worker.models.fetch.errors import DigestMismatchError, disk_errors
from gen_worker.models.fetch.failures import refresh, settle_failure
from gen_worker.models.fetch.opening import open_download
from gen_worker.models.fetch.partials import Place
from gen_worker.models.fetch.streamed import StreamedDownload
from gen_worker.models.fetch.transfer import Pace, transfer_segment, transfer_stream
from gen_worker.models.fetch.values import FetchedFile

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.models.fetch.download import Download
    from gen_worker.models.fetch.fetcher import FetchSettings
    from gen_worker.models.fetch.tasks import Job, Task
    from gen_worker.models.fetch.values import Location

__all__ = ["Steps"]

_RIVAL_TICK_S = 0.1
_RIVAL_PATIENCE_S = 180.0
"""Longer than checking what the rival itself adopted may take."""
_FORWARD_BYTES = 1 << 16
"""Fewer new bytes than this do not count as progress of a failing source."""


class Steps:
    """Does jobs. Any thread; what it learns goes into the task, under `lock`."""

    def __init__(
        self, settings: FetchSettings, lock: threading.Condition, stop: CancelToken
    ) -> None:
        self._settings = settings
        self._lock = lock
        self._stop = stop

    def do(self, job: Job, buffer: memoryview) -> None:
        """Do a job with a buffer of the thread's own.

        Raises:
            BaseException: What makes the whole fetch fail.
        """
        match job.kind:
            case "open":
                self._open(job.task)
            case "advance":
                assert job.task.download is not None
                job.task.download.advance(buffer, self._stop.raise_if_canceled)
            case "finish":
                self._finish(job.task, buffer)
            case "segment" | "stream":
                self._request(job, buffer)

    # What is there already.

    def _open(self, task: Task) -> None:
        """Look at the destination; open the partial, or wait for who is writing one."""
        file = task.file
        if task.download is not None:  # it was taken away
            task.download.leave()
            task.download = None
        if self._is_present(task):
            return
        if task.routes.current is None:
            none = ArtifactTransferError(f"{file.destination!r} has no location", phase="locate")
            refresh(task, 0, none, self._lock)
        if not file.size_bytes and not _is_known_empty(task):
            with self._lock:
                task.phase = "stream"
            return
        with disk_errors(file.destination, file.size_bytes or 0):
            download = open_download(
                file,
                task.digest,
                block_bytes=self._settings.block_bytes,
                durable=self._settings.durable,
                is_alone=_is_impatient(task),
            )
        task.download = download
        if download is not None and self._is_present(task):  # finished between the two looks
            download.partial.remove()
            return
        with self._lock:
            task.phase = "open" if download else "new"
            if download is None:
                task.not_before = time.monotonic() + _RIVAL_TICK_S

    def _is_present(self, task: Task) -> bool:
        """Finish at once when the destination holds the right bytes."""
        file = task.file
        try:
            status = os.stat(file.destination)
        except (FileNotFoundError, NotADirectoryError):
            return False
        facts = (status.st_ino, status.st_size, status.st_mtime_ns)
        if facts == task.judged or not task.digest.algorithm:
            return False
        task.judged = facts
        if file.size_bytes and status.st_size != file.size_bytes:
            return False
        check = self._stop.raise_if_canceled
        try:
            found, size = hash_file(file.destination, task.digest.algorithm, check)
        except CanceledError:
            raise
        except OSError:  # what cannot be read is replaced
            return False
        if found == task.digest:
            self._done(task, size, str(found), was_present=True)
        return found == task.digest

    # One request.

    def _request(self, job: Job, buffer: memoryview) -> None:
        """Make a request; whatever becomes of it, the task knows afterwards."""
        task, received, since = job.task, 0, time.monotonic()
        with self._lock:
            location = task.routes.current

        def count(size: int) -> None:
            nonlocal received
            received += size
            with self._lock:
                task.bytes_fetched += size

        error: Exception | None = None
        try:
            if location is not None:
                with self._settings.connections_limit.hold(self._stop):
                    self._transfer(job, location, buffer, self._pace(count))
        except CanceledError:
            raise
        except Exception as failure:
            error = failure
        finally:
            self._after(job, received, time.monotonic() - since)
        if error is not None and location is not None:
            settle_failure(task, location, error, self._lock, time.monotonic())

    def _transfer(self, job: Job, location: Location, buffer: memoryview, pace: Pace) -> None:
        opener, task = self._settings.opener, job.task
        if job.segment is None:
            self._stream(task, location, buffer, pace)
            return
        assert task.download is not None
        transfer_segment(
            opener,
            location,
            task.download,
            job.segment,
            buffer,
            pace,
            destination=task.file.destination,
            is_whole=job.is_whole,
        )

    def _pace(self, count: Callable[[int], None]) -> Pace:
        settings = self._settings
        return Pace(
            self._stop,
            settings.bandwidth,
            settings.stall_window_s,
            settings.stall_bytes_per_s,
            count,
        )

    def _after(self, job: Job, received: int, seconds: float) -> None:
        task = job.task
        if job.segment is not None and task.download is not None:
            task.download.give_back(job.segment)
        with self._lock:
            task.connections -= 1
            task.measured(received, seconds)
            # What cannot go on from where it broke does not come forward by starting again.
            if received >= _FORWARD_BYTES and job.kind == "segment" and not job.is_whole:
                task.backoff.came_forward()
                task.refreshes = 0

    def _stream(self, task: Task, location: Location, buffer: memoryview, pace: Pace) -> None:
        destination = task.file.destination
        with disk_errors(destination, 0):
            download = StreamedDownload(task.file, task.digest)
        try:
            transfer_stream(self._settings.opener, location, download, buffer, pace)
            found = download.digest
            if task.digest.algorithm and found != task.digest:
                self._count_mismatch(task, str(found))
                return
            with disk_errors(destination, download.size_bytes):
                download.partial.finish(durable=self._settings.durable)
        finally:
            download.partial.remove()
        self._done(task, download.size_bytes, str(found))

    # The end.

    def _finish(self, task: Task, buffer: memoryview) -> None:
        download = task.download
        assert download is not None
        found = download.digest
        if task.digest.algorithm and found != task.digest:
            self._mend(task, download, buffer, str(found))
            return
        with disk_errors(task.file.destination, download.size_bytes):
            try:
                download.partial.finish(durable=self._settings.durable)
            except FileNotFoundError:
                with self._lock:
                    download.is_lost, task.phase = True, "open"
                return
        self._done(task, download.size_bytes, str(found))

    def _mend(self, task: Task, download: Download, buffer: memoryview, found: str) -> None:
        """Fetch again what is wrong: the bad chunks if they can be told, else, once, everything."""
        if not download.was_adopted:
            self._count_mismatch(task, found)
        download.was_adopted = False
        hashes = task.file.chunk_hashes() if task.file.chunk_hashes else None
        check = self._stop.raise_if_canceled
        if not hashes or not download.repair(hashes, buffer, check):
            download.restart()
        with self._lock:
            task.phase = "open"

    def _count_mismatch(self, task: Task, found: str) -> None:
        """Let the next location try.

        Raises:
            DigestMismatchError: It was the last try.
        """
        with self._lock:
            task.mismatches += 1
            if task.routes.current is not None:
                task.routes.pass_over(task.routes.current)
        if task.mismatches <= self._settings.max_refetches:
            return
        if task.download is not None:
            task.download.partial.remove()
        raise DigestMismatchError(task.file.destination, expected=task.file.digest, actual=found)

    def _done(self, task: Task, size: int, digest: str, *, was_present: bool = False) -> None:
        with self._lock:
            task.phase = "done"
            task.result = FetchedFile(
                destination=task.file.destination,
                size_bytes=size,
                digest=digest,
                bytes_fetched=task.bytes_fetched,
                was_present=was_present,
            )


def _is_known_empty(task: Task) -> bool:
    """Tell whether the file is known to have no bytes; a size of 0 may mean unknown."""
    if task.file.size_bytes != 0 or not task.digest.algorithm:
        return False
    return new_hasher(task.digest.algorithm, 0).hexdigest() == task.digest.hex


def _is_impatient(task: Task) -> bool:
    """Tell whether to stop waiting for another process that no longer comes forward."""
    rivals = Place(task.file.destination).rivals() if task.rival else []
    now = time.monotonic()
    seen = rivals[0] if rivals else None
    if task.rival is None or seen != task.rival[0]:
        task.rival = (seen, now)
        return False
    return seen is not None and now - task.rival[1] > _RIVAL_PATIENCE_S
