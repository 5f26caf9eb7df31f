"""A real worker in the test's own process, which can vanish like one that was killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.worker.outbox import OutboxLimits
from gen_worker.runtime.worker.worker import Worker, WorkerOptions
from gen_worker.testing.workers import quick_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.manifest import Manifest
    from gen_worker.spec import FunctionSpec

__all__ = ["LocalWorker"]

_OUTBOX = OutboxLimits(merges_text=False)
"""So that each item is a delta of its own, and tests can count them."""


class LocalWorker:
    """One worker, and those that take its place. For the loop it was made on."""

    def __init__(
        self,
        functions: Sequence[FunctionSpec],
        address: str,
        *,
        token: str,
        manifest: Manifest,
        options: WorkerOptions | None = None,
    ) -> None:
        """Prepare.

        Args:
            functions: What it runs.
            address: Of the scheduler.
            token: Says who it is.
            manifest: Of its release.
            options: How it works; the token is put into them.
        """
        self._functions = functions
        self._address = address
        self._token = token
        self._manifest = manifest
        self._options = options or WorkerOptions()
        self._running: Worker | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self.starts = 0
        """How many there were."""

    @property
    def is_connected(self) -> bool:
        return self._running is not None and self._running.link.is_connected

    def start(self) -> None:
        """Start it; it connects by itself."""
        self.starts += 1
        worker = self._running = Worker(
            self._functions,
            quick_policy(self._address),
            msgspec.structs.replace(self._options, token=self._token),
            manifest=self._manifest,
            outbox_limits=_OUTBOX,
        )
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(worker.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def vanish(self) -> None:
        """End its connection without a word; what it runs is canceled and comes to nothing."""
        worker, self._running = self._running, None
        if worker is not None:
            await worker.link.leave(0.0)

    async def close(self) -> None:
        """Have it end in order, and wait for those that had vanished."""
        worker, self._running = self._running, None
        if worker is not None:
            worker.stop("the test is over")
        while self._tasks:
            await asyncio.wait(self._tasks)
