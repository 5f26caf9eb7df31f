"""A project of `gen-worker up`: deployed as it is, and again whenever it changes."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import msgspec

from gen_worker.cli.platform.children import Child
from gen_worker.cli.platform.pool import ReleaseKey
from gen_worker.cli.platform.pruning import RELOADER
from gen_worker.cli.platform.services import stop_child
from gen_worker.cli.reload import first_change, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cli.platform.folder import DataFolder
    from gen_worker.cli.platform.services import Surroundings

__all__ = ["Deployed", "FolderProject"]

_POLL_S = 0.3
_STOP_S = 5.0


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """What `gen-worker deploy --json` prints."""

    owner: str
    endpoint: str
    release_id: str
    is_new: bool = False
    tags: tuple[str, ...] = ()
    """That were moved to it."""
    functions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.owner}/{self.endpoint}"

    @property
    def key(self) -> ReleaseKey:
        return ReleaseKey(self.owner, self.endpoint, self.release_id)


class FolderProject:
    """One folder that is served."""

    def __init__(
        self,
        root: str,
        folder: DataFolder,
        around: Surroundings,
        on_deployed: Callable[[Deployed], object],
        *,
        tag: str,
        reloads: bool,
    ) -> None:
        """Prepare to serve a project.

        Args:
            root: Its folder.
            folder: Of the platform.
            around: The platform.
            on_deployed: Told of each release.
            tag: That is pointed at what the folder has.
            reloads: Whether changes are deployed. If not, the folder is deployed only when its
                endpoint has no release yet.
        """
        self.root = root
        self.name = os.path.basename(root)
        self._folder = folder
        self._around = around
        self._on_deployed = on_deployed
        self._tag = tag
        self._reloads = reloads
        self.was_tried = asyncio.Event()
        """Set once the folder was deployed, or could not be."""
        self._child: Child | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Deploy the folder, and then each change of it until `stop`."""
        seen = await asyncio.to_thread(snapshot, self.root)
        await self._deploy()
        self.was_tried.set()
        while self._reloads and not self._stopping.is_set():
            now = await asyncio.to_thread(snapshot, self.root)
            if now == seen:
                await self._pause()
                continue
            change = first_change(seen, now, self.root)
            while (later := await asyncio.to_thread(snapshot, self.root)) != now:
                now = later  # it is still being written
                await self._pause()
            seen = now
            self._around.say(f"{self.name}: {change} changed, deploying it")
            await self._deploy()

    async def stop(self) -> None:
        self._stopping.set()
        if self._child is not None:
            await stop_child(self._child, _STOP_S)

    def kill(self) -> None:
        self._stopping.set()
        if self._child is not None:
            self._child.kill()

    async def _deploy(self) -> None:
        """Publish what the folder has, in a process of its own, and point the tag at it."""
        if self._stopping.is_set():
            return
        words = ["deploy", self.root, "--data", self._folder.path, "--json", "--wait"]
        words += ["--tag", self._tag]
        words += ["--by", RELOADER] if self._reloads else ["--unless-deployed"]
        self._child = child = await Child.start(
            self.name,
            self._around.guard.command(sys.executable, "gen_worker.cli", *words),
            self._around.guard,
            self._around.show,
            environment=self._around.environment,
            folder=self.root,
            keeps_output=True,
        )
        code = await child.wait()
        self._child = None
        if code == 0:
            self._on_deployed(msgspec.json.decode(child.output, type=Deployed))
        elif not self._stopping.is_set():
            more = ": waiting for a change; what ran before goes on" if self._reloads else ""
            self._around.say(f"{self.name} was not deployed{more}")

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), _POLL_S)
        except TimeoutError:
            pass
