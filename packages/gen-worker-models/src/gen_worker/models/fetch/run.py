"""One fetch: threads that take jobs from the board until every file is there or one failed."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError
from gen_worker.models.fetch.partials import HEARTBEAT_S
from gen_worker.models.fetch.steps import Steps
from gen_worker.models.fetch.tasks import Board, Job, Task
from gen_worker.models.fetch.values import FetchProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.models.fetch.fetcher import FetchSettings

__all__ = ["Run"]

_BUFFER_BYTES = 1 << 20
_TICK_S = 0.1


class Run:
    """The state and threads of one call of `Fetcher.fetch`."""

    def __init__(self, settings: FetchSettings, tasks: Sequence[Task], threads: int) -> None:
        self._tasks = tasks
        self._board = Board(tasks, threads, settings.chunk_bytes)
        self._changed = threading.Condition()
        self._stop = CancelToken()
        self._steps = Steps(settings, self._changed, self._stop)
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"gen-worker-fetch-{index}", daemon=True)
            for index in range(threads)
        ]

    def run(
        self, token: CancelToken | None, progress: Callable[[FetchProgress], None] | None
    ) -> None:
        """Fetch everything; on the caller's thread, which also reports the progress.

        Raises:
            BaseException: What ended the first file that failed, or the caller's cancel.
        """
        if token is not None:
            token.on_cancel(self._cancel)
        try:
            for thread in self._threads:
                thread.start()
            self._watch(progress)
        except BaseException as error:
            self._fail(error)
        finally:
            if token is not None:
                token.discard(self._cancel)
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
            self._leave()
        if token is not None and not self._board.is_done:
            token.raise_if_canceled()
        if self._error is not None:
            raise self._error

    def _cancel(self) -> None:
        self._stop.cancel()
        # Not here: a signal handler may cancel in a thread that is inside this very lock.
        threading.Thread(target=self._wake, name="gen-worker-fetch-wake", daemon=True).start()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
        self._stop.cancel()
        self._wake()

    def _watch(self, progress: Callable[[FetchProgress], None] | None) -> None:
        beat_at = time.monotonic() + HEARTBEAT_S
        is_over = False
        while not is_over:
            with self._changed:
                until = time.monotonic() + _TICK_S
                self._changed.wait_for(self._is_over, until - time.monotonic())
                is_over = self._is_over()
            if progress is not None:
                progress(self._progress())
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + HEARTBEAT_S
                self._beat()

    def _is_over(self) -> bool:
        return self._board.is_done or self._stop.is_canceled

    def _progress(self) -> FetchProgress:
        with self._changed:
            sizes = [
                task.result.size_bytes if task.result else task.file.size_bytes
                for task in self._tasks
            ]
            known = [size for size in sizes if size is not None]
            return FetchProgress(
                sum(task.bytes_done for task in self._tasks),
                sum(known) if len(known) == len(sizes) else None,
                sum(task.result is not None for task in self._tasks),
                len(self._tasks),
            )

    def _beat(self) -> None:
        with self._changed:
            for task in self._tasks:
                if task.download is not None and task.result is None:
                    task.download.partial.beat()

    def _leave(self) -> None:
        for task in self._tasks:
            if task.download is not None and task.result is None:
                with contextlib.suppress(OSError):
                    task.download.leave()

    # On the run's own threads.

    def _work(self) -> None:
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        last: Task | None = None
        try:
            while (job := self._next(last)) is not None:
                last = job.task
                self._steps.do(job, buffer)
                self._wake()
        except CanceledError as error:
            if not self._stop.is_canceled:  # raised by a function of the caller's
                self._fail(error)
        except BaseException as error:
            self._fail(error)

    def _next(self, last: Task | None) -> Job | None:
        with self._changed:
            while not self._is_over():
                now = time.monotonic()
                job = self._board.next_job(now, last)
                if job is not None:
                    if job.kind in ("segment", "stream"):
                        job.task.connections += 1
                    return job
                self._changed.wait(min(1.0, self._board.wait_s(now)))
        return None
