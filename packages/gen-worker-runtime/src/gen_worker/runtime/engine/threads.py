"""Threads for blocking handlers: as many as needed up to a limit, each with its region."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from gen_worker.runtime.engine.interrupt import Region

if TYPE_CHECKING:
    from gen_worker.runtime.engine.interrupt import Interrupter
    from gen_worker.runtime.engine.runners import InlineRunner

__all__ = ["Job", "ThreadPool", "Worker"]


class Job(Protocol):
    """One piece of work for a thread."""

    def run(self, worker: Worker) -> None:
        """Called once, in the thread. Must not raise: nobody is there to be told."""
        ...


class Worker:
    """One thread of a pool."""

    __slots__ = ("is_abandoned", "is_idle", "region", "runner", "thread")

    region: Region
    is_idle: bool
    """Set by a job right before it says that it is done: what follows may find the thread free."""
    runner: InlineRunner | None
    """For jobs that are whole calls; made by the first one."""

    def __init__(self) -> None:
        self.is_idle = False
        self.is_abandoned = False
        self.runner = None
        self.thread: threading.Thread | None = None


class ThreadPool:
    """A queue and the threads that empty it.

    Our own rather than `concurrent.futures`: no future, condition or callback per job, which is
    half of what a short call costs there.
    """

    def __init__(self, name: str, limit: int, interrupter: Interrupter) -> None:
        self.name = name
        self.limit = limit
        self._interrupter = interrupter
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._started = 0

    def __len__(self) -> int:
        """How many threads there are, without those given up."""
        return len(self._workers)

    @property
    def waiting(self) -> int:
        """Jobs no thread has taken yet."""
        return self._jobs.qsize()

    def submit(self, job: Job) -> None:
        """Queue a job; a thread is started when none is idle and the limit allows."""
        self._jobs.put(job)
        if len(self._workers) < self.limit and not self._has_idle():
            self._grow()

    def abandon(self, worker: Worker) -> None:
        """Give up a thread that does not come back; another may take its place.

        It ends by itself once its job does.
        """
        with self._lock:
            worker.is_abandoned = True
            if worker in self._workers:
                self._workers.remove(worker)
        if self._jobs.qsize():
            self._grow()

    def close(self, timeout_s: float) -> None:
        """End the idle threads now and the others after their job; wait for them, but not forever.

        Args:
            timeout_s: How long to wait for each. Threads are daemons: one that is stuck does not
                keep the process.
        """
        with self._lock:
            workers, self._workers = self._workers, []
            self.limit = 0
        for _ in workers:
            self._jobs.put(None)
        for worker in workers:
            if worker.thread is not None:
                worker.thread.join(timeout_s)

    def _has_idle(self) -> bool:
        """Tell whether there is an idle thread for every job in the queue."""
        needed = self._jobs.qsize()
        for worker in self._workers:
            if needed <= 0:
                break
            needed -= worker.is_idle
        return needed <= 0

    def _grow(self) -> None:
        with self._lock:
            if len(self._workers) >= self.limit or self._has_idle():
                return
            self._started += 1
            worker = Worker()
            worker.thread = threading.Thread(
                target=self._work,
                args=(worker,),
                name=f"gen-worker-{self.name}-{self._started}",
                daemon=True,
            )
            self._workers.append(worker)
        worker.thread.start()

    def _work(self, worker: Worker) -> None:
        interrupter = self._interrupter
        worker.region = region = Region()
        interrupter.watch(region)
        try:
            while not worker.is_abandoned:
                worker.is_idle = True
                job = self._jobs.get()
                worker.is_idle = False
                if job is None:
                    break
                if interrupter.is_dormant:
                    interrupter.wake()
                try:
                    job.run(worker)
                except BaseException:  # whatever it was, it must not end the thread
                    import logging

                    logging.getLogger("gen_worker.runtime").exception("%r failed", job)
                job = None  # or an idle thread would keep the last call's data alive
        finally:
            interrupter.forget(region)
