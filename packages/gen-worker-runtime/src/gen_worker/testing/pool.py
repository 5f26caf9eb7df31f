"""An orchestrator and its workers, from tests that are plain functions."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from gen_worker.testing.closing import Closing
from gen_worker.testing.faults import StreamFaults
from gen_worker.testing.loop_thread import LoopThread
from gen_worker.testing.orchestrator import Orchestrator
from gen_worker.testing.workers import WorkerProcess, working

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from gen_worker.runtime.wire import Inbound, JobResult, TokenDelta, WorkerEvent
    from gen_worker.testing.orchestrator import Job, WorkerSession

__all__ = ["Pool", "PoolJob"]

T = TypeVar("T")

_TIMEOUT_S = 30.0


class Pool(Closing):
    """An orchestrator over real gRPC on loopback, and workers that are connected to it.

    A context manager. It has an event loop in a thread of its own; every method blocks.
    """

    def __init__(self) -> None:
        self.faults = StreamFaults()
        """What goes wrong; script it before it is to happen."""
        self._orchestrator = Orchestrator(faults=self.faults)
        self._loop = LoopThread("worker-pool")
        self._stack = AsyncExitStack()
        self._processes: list[WorkerProcess] = []
        self._loop.wait(self._stack.enter_async_context(self._orchestrator))

    def __repr__(self) -> str:
        return f"<Pool on {self.address}: {list(self._orchestrator.workers.values())!r}>"

    @property
    def address(self) -> str:
        """Where workers connect to."""
        return self._orchestrator.address

    def add(self, target: Any, **options: Any) -> WorkerSession:
        """Add a worker in this process and wait until it is connected.

        Args:
            target: What it runs: a module, something decorated, or several of them.
            **options: Of `gen_worker.testing.workers.working`.
        """
        before = self._connected()
        self._loop.wait(self._stack.enter_async_context(working(target, self.address, **options)))
        return self._wait_for_another(before)

    def start(
        self, project: str | os.PathLike[str], *, environment: Mapping[str, str] | None = None
    ) -> WorkerProcess:
        """Start a worker in a process of its own, as its container would, and wait for it.

        Args:
            project: Directory that has an endpoint.toml.
            environment: More variables for it.
        """
        before = self._connected()
        process = WorkerProcess(project, self.address, environment=environment)
        self._processes.append(process)
        process.start()
        try:
            self._wait_for_another(before)
        except TimeoutError as error:
            error.add_note(process.log)
            raise
        return process

    def submit(
        self, function: str, payload: Mapping[str, Any] | None = None, **fields: Any
    ) -> PoolJob:
        """Send a job to a worker that is connected and has the function.

        Args:
            function: Slug.
            payload: Of the function.
            **fields: More of `gen_worker.runtime.wire.JobRequest`, such as `timeout_ms`.
        """

        def ready() -> WorkerSession | None:
            workers = self._connected()
            able = (
                one for one in workers if function in one.registration.resources.available_functions
            )
            return next(able, None)

        worker = self._until(ready)
        job = self._loop.call(lambda: worker.submit(function, payload, **fields))
        return PoolJob(self, job)

    def send(self, command: Inbound) -> None:
        """Send a command to every worker that is connected."""

        def send() -> None:
            for worker in self._connected():
                worker.send(command)

        self._loop.call(send)

    def wait_until_alone(self) -> None:
        """Wait until no worker is connected any more."""
        self._until(lambda: not self._connected())

    def restart(self, seconds: float = 0.0) -> None:
        """Kill the orchestrator's end, and have it back after a while with all that it knew."""

        async def restart() -> None:
            await self._orchestrator.stop()
            await asyncio.sleep(seconds)
            await self._orchestrator.start()

        self._loop.wait(restart())

    def close(self) -> None:
        """Stop every worker, kill every process."""
        for process in self._processes:
            process.__exit__(None, None, None)
        self._loop.wait(self.faults.settle())
        self._loop.wait(self._stack.aclose())
        self._loop.close()

    def _connected(self) -> list[WorkerSession]:
        return [one for one in self._orchestrator.workers.values() if one.is_connected]

    def _wait_for_another(self, before: list[WorkerSession]) -> WorkerSession:
        return self._until(
            lambda: next((one for one in self._connected() if one not in before), None)
        )

    def _until(self, look: Callable[[], T | None], timeout_s: float = _TIMEOUT_S) -> T:
        return self._loop.wait(self._orchestrator.until(look, timeout_s=timeout_s))


class PoolJob:
    """One request, and everything that workers said about it."""

    def __init__(self, pool: Pool, job: Job) -> None:
        self._pool = pool
        self._job = job

    @property
    def request_id(self) -> str:
        return self._job.request.request_id

    @property
    def deltas(self) -> list[TokenDelta]:
        """What was streamed so far, in order."""
        return [self._job.deltas[number] for number in sorted(self._job.deltas)]

    @property
    def text(self) -> str:
        """The text that was streamed so far."""
        return self._job.text

    @property
    def events(self) -> list[WorkerEvent]:
        return list(self._job.events)

    @property
    def attempts(self) -> int:
        """How often it was given to a worker."""
        return self._job.attempts

    def result(self, timeout_s: float = _TIMEOUT_S) -> JobResult:
        """Wait until the job is finished, its whole stream included, and return its result."""
        return self._pool._loop.wait(self._job.result(timeout_s=timeout_s))

    def output(self, timeout_s: float = _TIMEOUT_S) -> Any:
        """Wait for success and return what the function returned, as plain values.

        Raises:
            AssertionError: The job failed.
        """
        return self._pool._loop.wait(self._job.output(timeout_s=timeout_s))

    def wait_for_event(self, event_type: str, timeout_s: float = _TIMEOUT_S) -> WorkerEvent:
        """Wait until a worker reports something about the job."""
        return self._pool._until(
            lambda: next((one for one in self.events if one.event_type == event_type), None),
            timeout_s,
        )
