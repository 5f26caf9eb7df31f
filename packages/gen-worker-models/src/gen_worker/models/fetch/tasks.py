"""The files of one fetch and what should be done next: decided here, done elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from gen_worker.models.fetch.digests import parse_digest
from gen_worker.models.fetch.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.fetch.backoff import Backoff
    from gen_worker.models.fetch.blocks import Segment
    from gen_worker.models.fetch.download import Download
    from gen_worker.models.fetch.partials import Rival
    from gen_worker.models.fetch.values import FetchedFile, FileToFetch

__all__ = ["Board", "Job", "Task"]

_MOST_BYTES = 128 * 1024 * 1024
_SEGMENT_S = 2.0
"""How long a request should last: long beside a round trip, short beside a person's patience."""
_RATE_WEIGHT = 0.5


class Task:
    """One file on its way. Guarded by the run's lock."""

    def __init__(self, file: FileToFetch, backoff: Backoff) -> None:
        self.file = file
        self.digest = parse_digest(file.digest)
        self.routes = Routes(file.locations)
        self.backoff = backoff
        self.phase: Literal["new", "open", "stream", "busy", "done"] = "new"
        """`busy` while a thread opens or finishes it."""
        self.download: Download | None = None
        self.result: FetchedFile | None = None
        self.not_before = 0.0
        self.connections = 0
        self.is_refreshing = False
        self.refreshes = 0
        self.mismatches = 0
        self.restarts = 0
        self.bytes_fetched = 0
        self.bytes_per_s: float | None = None
        """Of one connection."""
        self.rival: tuple[Rival | None, float] | None = None
        """Whose download is waited for, as last seen to come forward, and when."""
        self.judged: tuple[int, int, int] | None = None
        """The file at the destination that was found wrong: inode, size, time of change."""

    @property
    def bytes_done(self) -> int:
        if self.result is not None:
            return self.result.size_bytes
        return self.download.bytes_here if self.download else 0

    def measured(self, size_bytes: int, seconds: float) -> None:
        """Take note of how fast a connection was."""
        if size_bytes and seconds > 0:
            rate, old = size_bytes / seconds, self.bytes_per_s
            self.bytes_per_s = rate if old is None else old + _RATE_WEIGHT * (rate - old)


class Job(NamedTuple):
    """One thing to do, by one thread."""

    kind: Literal["open", "advance", "finish", "segment", "stream"]
    task: Task
    segment: Segment | None = None
    is_whole: bool = False


class Board:
    """Hands out jobs. Guarded by the run's lock."""

    def __init__(self, tasks: Sequence[Task], connections: int, chunk_bytes: int) -> None:
        # Largest first: the last file to end should be a small one.
        self._tasks = sorted(tasks, key=lambda task: -(task.file.size_bytes or 0))
        self._connections = connections
        self._chunk_bytes = chunk_bytes

    @property
    def is_done(self) -> bool:
        return all(task.phase == "done" for task in self._tasks)

    def wait_s(self, now: float) -> float:
        """Return how long nothing can become due by itself."""
        times = [task.not_before - now for task in self._tasks if task.phase != "done"]
        return max(0.005, min((time for time in times if time > 0), default=60.0))

    def next_job(self, now: float, last: Task | None) -> Job | None:
        """Return the most useful thing to do now.

        Args:
            now: By the run's clock.
            last: What this thread worked on before; it stays with it if it can.
        """
        ready = [task for task in self._tasks if task.phase != "done" and task.not_before <= now]
        return self._local_job(ready) or self._transfer(ready, last) or self._takeover(ready)

    def _local_job(self, ready: Sequence[Task]) -> Job | None:
        """Hashing and finishing first: they free what others wait for."""
        for task in ready:
            download = task.download
            if task.phase != "open" or download is None:
                continue
            if download.is_lost:
                # Its descriptors may be closed only when nobody writes through them.
                if not task.connections and not download.is_advancing:
                    task.phase = "busy"
                    return Job("open", task)
                continue
            if download.begin_advance():
                return Job("advance", task)
            if download.is_complete:
                task.phase = "busy"
                return Job("finish", task)
        return None

    def _transfer(self, ready: Sequence[Task], last: Task | None) -> Job | None:
        able = [task for task in ready if task.phase in ("new", "open", "stream")]
        able.sort(key=lambda task: (task.connections, task is not last))
        share = -(-self._connections // max(1, len(able)))
        for task in able:
            job = self._start(task, share)
            if job is not None:
                return job
        return None

    def _start(self, task: Task, share: int) -> Job | None:
        if task.phase == "new":
            task.phase = "busy"
            return Job("open", task)
        if task.is_refreshing or task.routes.current is None:
            return None
        if task.phase == "stream":
            return None if task.connections else Job("stream", task)
        download = task.download
        if download is None or download.is_lost:
            return None
        if not task.routes.serves_ranges:
            if task.connections or not download.bytes_missing:
                return None
            download.restart()
            return Job("segment", task, download.take(download.size_bytes), is_whole=True)
        if not self._may_join(task, download):
            return None
        segment = download.take(self._segment_bytes(task, download, share))
        return Job("segment", task, segment) if segment else None

    def _may_join(self, task: Task, download: Download) -> bool:
        """Keep what a kill loses to one chunk, also with an adopted file of larger blocks."""
        in_flight = task.connections * download.block_bytes
        return not task.connections or in_flight + download.block_bytes <= self._chunk_bytes

    def _segment_bytes(self, task: Task, download: Download, share: int) -> int:
        rate = task.bytes_per_s
        size = self._chunk_bytes if rate is None else int(rate * _SEGMENT_S)
        size = max(self._chunk_bytes, min(_MOST_BYTES, size))
        if share > 1:
            size = min(size, download.bytes_missing // (2 * share))
        return max(2 * download.block_bytes, size)

    def _takeover(self, ready: Sequence[Task]) -> Job | None:
        """Help a connection that has more than a second of work before it."""
        for task in ready:
            download = task.download
            if task.phase != "open" or download is None or download.is_lost:
                continue
            if not task.connections or task.is_refreshing or not task.routes.serves_ranges:
                continue
            if not self._may_join(task, download):
                continue
            segment = download.split(int(task.bytes_per_s or self._chunk_bytes))
            if segment is not None:
                return Job("segment", task, segment)
        return None
