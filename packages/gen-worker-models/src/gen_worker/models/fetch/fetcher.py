"""Fetching files: several connections, resumable by any process, verified to the last byte."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import ValidationError
from gen_worker.models.fetch.backoff import Backoff, RetryLimits
from gen_worker.models.fetch.limits import BandwidthLimit, ConnectionLimit
from gen_worker.models.fetch.run import Run
from gen_worker.models.fetch.tasks import Task
from gen_worker.models.fetch.values import CHUNK_BYTES, FetchReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.fetch.values import FetchProgress, FileToFetch
    from gen_worker.models.net.opener import Opener

__all__ = ["FetchSettings", "Fetcher"]

_MIN_CHUNK_BYTES = 256 * 1024
_USUAL_CONNECTIONS = 8
_MOST_CONNECTIONS = 64


class FetchSettings(NamedTuple):
    """What all requests of a fetcher share."""

    opener: Opener
    chunk_bytes: int
    block_bytes: int
    durable: bool
    bandwidth: BandwidthLimit
    connections_limit: ConnectionLimit
    stall_window_s: float
    stall_bytes_per_s: float
    max_refetches: int


class Fetcher:
    """Fetches files over several connections. Thread-safe, blocking.

    A killed fetch is gone on with by the next one of the same destination, in whatever process.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        connections: int = 4,
        chunk_bytes: int = CHUNK_BYTES,
        bandwidth: BandwidthLimit | None = None,
        connections_limit: ConnectionLimit | None = None,
        retries: RetryLimits | None = None,
        stall_window_s: float = 180.0,
        stall_bytes_per_s: float = 1024.0,
        durable: bool = True,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Say how.

        Args:
            opener: Opens the locations.
            connections: At a time, over all files of one `fetch`; no more than 64 are made.
            chunk_bytes: The most that a killed process may lose, over all its connections.
            bandwidth: Shared with other fetchers; none is no limit.
            connections_limit: Of requests, shared with other fetchers.
            retries: Of a location that fails for a while.
            stall_window_s: A connection that brings less than `stall_bytes_per_s` over so many
                seconds is given up for the next location; 0 never.
            stall_bytes_per_s: See there.
            durable: Flush finished files to the disk. Without it a power failure may leave a
                finished file damaged: for files that are cheap to fetch again.
            clock: Seconds, for the waits between tries.
            uniform: Chooses a wait between two bounds.
        """
        if connections < 1 or chunk_bytes < _MIN_CHUNK_BYTES:
            raise ValidationError(
                f"{connections} connections and chunks of {chunk_bytes} bytes: at least 1 and "
                f"{_MIN_CHUNK_BYTES} are needed"
            )
        connections = min(connections, _MOST_CONNECTIONS)
        self._connections = connections
        self._retries = retries or RetryLimits()
        self._clock = clock
        self._uniform = uniform
        self._settings = FetchSettings(
            opener=opener,
            chunk_bytes=chunk_bytes,
            block_bytes=_block_bytes(chunk_bytes, connections),
            durable=durable,
            bandwidth=bandwidth or BandwidthLimit(0),
            connections_limit=connections_limit or ConnectionLimit(connections),
            stall_window_s=stall_window_s,
            stall_bytes_per_s=stall_bytes_per_s,
            max_refetches=1,
        )

    def fetch(
        self,
        files: Sequence[FileToFetch],
        *,
        token: CancelToken | None = None,
        progress: Callable[[FetchProgress], None] | None = None,
    ) -> FetchReport:
        """Fetch all files, or raise; those that are finished stay, the others can be gone on with.

        Args:
            files: With distinct destinations.
            token: Its cancel ends the fetch within about 100 ms.
            progress: Called on this thread about every 100 ms, and at the end; what it raises ends
                the fetch.

        Raises:
            DigestMismatchError: The source's bytes are not the ones asked for, twice.
            SizeMismatchError: Nor is their number.
            HttpStatusError: The last location refused, and there were no new ones.
            ArtifactTransferError: The network failed for longer than the retries last.
            NoSpaceError: The disk is full.
            CanceledError: `token` was canceled.
        """
        since = time.monotonic()
        _refuse_twins(files)
        if token is not None:
            token.raise_if_canceled()
        tasks = [Task(file, self._backoff()) for file in files]
        if tasks:
            Run(self._settings, tasks, self._threads(files)).run(token, progress)
        done = tuple(task.result for task in tasks if task.result is not None)
        return FetchReport(files=done, duration_s=time.monotonic() - since)

    def _backoff(self) -> Backoff:
        return Backoff(self._retries, clock=self._clock, uniform=self._uniform)

    def _threads(self, files: Sequence[FileToFetch]) -> int:
        """No more than there is work for: a small file needs one."""
        sizes = [file.size_bytes or 0 for file in files]
        pieces = sum(max(1, size // self._settings.chunk_bytes) for size in sizes)
        return min(self._connections, pieces)


def _block_bytes(chunk_bytes: int, connections: int) -> int:
    """Return a power of two, so that the blocks being fetched make one chunk at most.

    The same for any usual number of connections: a partial keeps the blocks it began with.
    """
    share = chunk_bytes // max(_USUAL_CONNECTIONS, connections)
    return int(1 << (share.bit_length() - 1))


def _refuse_twins(files: Sequence[FileToFetch]) -> None:
    seen: set[str] = set()
    for file in files:
        if file.destination in seen:
            raise ValidationError(f"{file.destination!r} is to be fetched twice at once")
        seen.add(file.destination)
