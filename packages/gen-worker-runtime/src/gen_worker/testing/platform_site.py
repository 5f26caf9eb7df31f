"""Everything of a platform that is on its event loop: hub, scheduler, workers, and cables."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from gen_worker.models.settings import load_model_settings
from gen_worker.runtime.scheduler.opening import OWNER
from gen_worker.runtime.scheduler.scheduler import Scheduler
from gen_worker.runtime.scheduler.settings import SchedulerSettings
from gen_worker.testing.cable import Cable
from gen_worker.testing.held_port import HeldPort
from gen_worker.testing.local_worker import LocalWorker
from gen_worker.testing.platform_faults import PlatformFaults
from gen_worker.testing.platform_hub import PlatformHub

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.runtime.worker.worker import WorkerOptions
    from gen_worker.testing.loop_thread import LoopThread
    from gen_worker.testing.platform_release import LocalRelease

__all__ = ["PlatformSite"]

_RETRY_S = 0.01
_DRAIN_S = 0.1
_PATIENCE_S = 30.0
_LOOK_S = 0.005


class PlatformSite:
    """One platform. Made and used on its loop."""

    def __init__(
        self,
        loop: LoopThread,
        release: LocalRelease,
        folder: str,
        options: WorkerOptions,
        lost_after_s: float,
    ) -> None:
        self._loop = loop
        self._release = release
        self._folder = folder
        self._options = options
        self._lost_after_s = lost_after_s
        self._stack = AsyncExitStack()
        self._restarting = asyncio.Lock()
        self._release_id = ""
        self.faults = PlatformFaults(self)
        self.workers: dict[str, LocalWorker] = {}
        self.hub = PlatformHub(os.path.join(folder, "hub"))
        self.ports = HeldPort(), HeldPort()
        """For clients, and for workers: a scheduler that restarts has the same."""
        self.cable = Cable(f"127.0.0.1:{self.ports[0].number}")
        """Between clients and the scheduler."""

    async def start(self, models: Mapping[str, str | os.PathLike[str]]) -> None:
        """Have a hub with these models, and a scheduler with the release."""
        for port in self.ports:
            self._stack.callback(port.close)
        await self._stack.enter_async_context(self.hub)
        for ref, folder in models.items():
            await self.hub.publish(ref, folder)
        self.scheduler = await self._open()
        self._stack.push_async_callback(lambda: self.scheduler.close())
        published = await self.scheduler.releases.publish(
            self._release.project,
            lock=self._release.lock,
            environment="test",
            owner=OWNER,
            first_tag="prod",
        )
        self._release_id = published.record.release_id
        await self._stack.enter_async_context(self.cable)

    async def close(self) -> None:
        """End everything, the workers first."""
        self.faults.end_silence()
        await self.faults.settle()
        await asyncio.gather(*(worker.close() for worker in self.workers.values()))
        await self._stack.aclose()

    def add_worker(self, worker_id: str) -> LocalWorker:
        """Start one more."""
        worker = self.workers[worker_id] = LocalWorker(
            self._release.functions,
            f"127.0.0.1:{self.ports[1].number}",
            token=self.scheduler.issue_worker_token(self._release_id, worker_id),
            manifest=self._release.manifest,
            options=self._options,
        )
        worker.start()
        return worker

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something.

        Raises:
            TimeoutError: It does not come.
        """
        async with asyncio.timeout(_PATIENCE_S):
            while not is_so():
                await asyncio.sleep(_LOOK_S)

    # As the stage of faults.

    def call(self, function: Callable[[], None]) -> None:
        self._loop.call(function)

    def cut_clients(self) -> None:
        self.cable.cut()

    def slow_clients(self, seconds: float) -> None:
        self.cable.chunk_delay_s = seconds

    def move_hub(self, *, away: bool) -> None:
        (self.hub.go_away if away else self.hub.come_back)()

    async def lose(self, worker_id: str) -> None:
        await self.workers[worker_id].vanish()

    async def replace(self, worker_id: str) -> None:
        self.workers[worker_id].start()

    async def restart(self) -> None:
        async with self._restarting:
            await self.scheduler.close()
            self.cable.cut()  # as the end of its process does
            self.scheduler = await self._open()

    async def _open(self) -> Scheduler:
        for_clients, for_workers = (f"127.0.0.1:{port.number}" for port in self.ports)
        settings = SchedulerSettings(
            data_dir=self._folder,
            http=for_clients,
            workers=for_workers,
            lost_after_s=self._lost_after_s,
            retry_delay_s=_RETRY_S,
            retry_max_delay_s=_RETRY_S,
            drain_s=_DRAIN_S,
        )
        return await Scheduler.open(
            settings, models=load_model_settings(hub_url=self.hub.url), passage=self.faults
        )
