"""Threads for blocking handlers: as many as needed up to a limit, each with its region."""

from __future__ import annotations

import threading
from collections import deque
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

    def report(self) -> None:
        """Say that it has run; called after it by the same thread, also if there was nothing to do.

        It is the last thing before the thread waits again, so that whoever is told finds a free
        thread and, what counts more, a free GIL: waiting for it takes a second wake-up.
        """
        ...


class Worker:
    """One thread of a pool."""

    __slots__ = ("gate", "is_abandoned", "last", "region", "runner", "thread")

    region: Region
    last: Job | None
    """What has run and has not been reported."""
    runner: InlineRunner | None
    """For jobs that are whole calls; made by the first one."""

    def __init__(self) -> None:
        self.last = None
        self.is_abandoned = False
        self.runner = None
        self.thread: threading.Thread | None = None
        self.gate = threading.Lock()
        """Closed; opened to wake the thread where it waits for a job."""
        self.gate.acquire()

    def report(self) -> None:
        """Report the last job, and forget it: an idle thread would keep its data alive."""
        last = self.last
        if last is not None:
            self.last = None
            last.report()


class ThreadPool:
    """A queue and the threads that empty it.

    Our own rather than `concurrent.futures`: no future, condition or callback per job, which is
    half of what a short call costs there. What counts is how seldom a thread is woken, and which:

    - The one that has waited least is woken first. Its memory is still in the cache, and with
      calls one after the other it is always the same one, which makes each 20 us shorter.
    - One at a time. Whoever wakes takes a job, and wakes the next thread if there are more. Of 64
      short jobs submitted at once one thread does most before a second one gets the GIL.
    """

    # There is no lock on the way of a job. What is read here may have changed by the next line, so
    # each side first says what it did and then looks at what the other has said.

    def __init__(
        self, name: str, limit: int, interrupter: Interrupter, *, gpu: str | None = None
    ) -> None:
        self.name = name
        self.gpu = gpu
        """What `.cuda()` is to mean in its jobs."""
        self.limit = limit
        self._interrupter = interrupter
        self._jobs: deque[Job | None] = deque()
        self._parked: list[Worker] = []
        self._is_waking = False
        """Whether a thread has been woken, or started, and has not looked for jobs yet."""
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._started = 0

    def __len__(self) -> int:
        """How many threads there are, without those given up."""
        return len(self._workers)

    @property
    def waiting(self) -> int:
        """Jobs no thread has taken yet."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Queue a job; a thread is started when none is idle and the limit allows."""
        self._jobs.append(job)
        if not self._is_waking:
            self._wake_one()

    def abandon(self, worker: Worker) -> None:
        """Give up a thread that does not come back; another may take its place.

        It ends by itself once its job does.
        """
        with self._lock:
            worker.is_abandoned = True
            if worker in self._workers:
                self._workers.remove(worker)
        if self._jobs:
            self._wake_one()

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
            self._jobs.append(None)
        self._wake_one()
        for worker in workers:
            if worker.thread is not None:
                worker.thread.join(timeout_s)

    def _wake_one(self) -> None:
        """Have one more thread look for jobs, unless all are busy."""
        try:
            worker = self._parked.pop()
        except IndexError:
            if len(self._workers) < self.limit:
                self._grow()
        else:
            self._is_waking = True
            worker.gate.release()

    def _grow(self) -> None:
        worker = Worker()
        with self._lock:
            if len(self._workers) >= self.limit:
                return
            self._is_waking = True
            self._started += 1
            worker.thread = threading.Thread(
                target=self._work,
                args=(worker,),
                name=f"gen-worker-{self.name}-{self._started}",
                daemon=True,
            )
            self._workers.append(worker)
        try:
            worker.thread.start()
        except RuntimeError:  # the system allows no more of them
            self._is_waking = False
            self._workers.remove(worker)
            if not self._workers:
                raise

    def _next(self, worker: Worker) -> Job | None:
        """Wait for a job; None ends the thread."""
        jobs = self._jobs
        if jobs:
            worker.report()
        else:
            self._park(worker)
        while True:
            try:
                job = jobs.popleft()
            except IndexError:  # another thread was faster
                self._park(worker)
            else:
                if jobs and not self._is_waking:
                    self._wake_one()
                return job

    def _park(self, worker: Worker) -> None:
        """Wait until there may be a job."""
        self._parked.append(worker)
        worker.report()
        if self._jobs:  # somebody who queued one may have found nobody here
            try:
                self._parked.remove(worker)
            except ValueError:
                pass  # or has found this thread just now
            else:
                return
        worker.gate.acquire()
        self._is_waking = False

    def _work(self, worker: Worker) -> None:
        interrupter = self._interrupter
        worker.region = region = Region()
        interrupter.watch(region)
        self._is_waking = False
        try:
            while not worker.is_abandoned:
                job = self._next(worker)
                if job is None:
                    break
                if interrupter.is_dormant:
                    interrupter.wake()
                try:
                    job.run(worker)
                except BaseException:  # whatever it was, it must not end the thread
                    import logging

                    logging.getLogger("gen_worker.runtime").exception("%r failed", job)
                worker.last, job = job, None
            worker.report()
        finally:
            interrupter.forget(region)
