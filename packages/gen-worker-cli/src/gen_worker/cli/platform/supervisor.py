"""One run of `gen-worker up`: from the claimed folder to the last process's end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from gen_worker.cli.failures import UsageError
from gen_worker.cli.platform.api import Api
from gen_worker.cli.platform.children import Guard, end_group
from gen_worker.cli.platform.folder import PlatformFile
from gen_worker.cli.platform.greeting import curl_line
from gen_worker.cli.platform.hired import Workers
from gen_worker.cli.platform.identity import started_at
from gen_worker.cli.platform.logbook import Logbook
from gen_worker.cli.platform.ports import KeptPort, listens
from gen_worker.cli.platform.projects import Deployed, FolderProject
from gen_worker.cli.platform.pruning import KEPT_RELOADS, RELOADER, prune
from gen_worker.cli.platform.services import Service
from gen_worker.errors import WorkerError
from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from gen_worker.cli.platform.folder import DataFolder
    from gen_worker.cli.platform.lines import Block
    from gen_worker.cli.platform.logbook import Screen

__all__ = ["Supervisor", "UpOptions", "refuse_other_scheduler"]

_WORKERS_END_S = 25.0
"""More than a worker takes that lets its requests end, cancels the rest and writes what it owes."""
_SCHEDULER_ENDS_S = 20.0
_HUB_ENDS_S = 5.0
_HUB_POLL_S = 0.05
_LEFTOVERS_END_S = 10.0
_INTERRUPTED = 130


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user wants to run."""

    projects: tuple[str, ...]
    """Absolute folders."""
    workers: int
    http: str
    """host:port of the scheduler's HTTP API; port 0 is any."""
    gateway: str
    """host:port that workers connect to; port 0 is any."""
    hub_port: int | None
    """That it has if it can be had, 0 for any; None: no hub."""
    tag: str
    reloads: bool


class Supervisor:
    """Starts everything at once, keeps it running, and ends it in order."""

    def __init__(
        self,
        options: UpOptions,
        folder: DataFolder,
        screen: Screen,
        announce: Callable[[dict[str, str]], object],
    ) -> None:
        """Prepare to run a platform on a folder that this process has claimed.

        Args:
            options: What to run.
            folder: Where its data is.
            screen: Shows what happens.
            announce: Given its URLs once it answers and has the projects.
        """
        self.guard = Guard()
        self._hub_port = None if options.hub_port is None else KeptPort(options.hub_port)
        self._hub_url = f"http://127.0.0.1:{self._hub_port.number}" if self._hub_port else ""
        self.environment = _environment(self._hub_url, folder)
        self._options = options
        self._folder = folder
        self._screen = screen
        self._announce = announce
        self._logbook = Logbook(folder.logs, screen)
        self._http, self._gateway = options.http, options.gateway
        self._url = ""
        self._workers: Workers | None = None
        """Once there is a scheduler that says what they are needed for."""
        self._started_at = time.time()
        self._presses = 0
        self._has_greeted = False
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None
        self._greetings: dict[str, tuple[str, asyncio.Task[None]]] = {}
        """By endpoint: which release."""

    # -- what the parts use ------------------------------------------------------------------------

    def show(self, name: str, block: Block) -> None:
        self._logbook.write(name, block)

    def say(self, text: str) -> None:
        self._screen.show(f"gen-worker up: {text}\n")

    def changed(self) -> None:
        """Announce which processes there are now."""
        found = [part.kept for part in (self._hub, self._scheduler) if part is not None]
        workers = self._workers.kept if self._workers is not None else []
        self._folder.announce(
            PlatformFile(
                pid=os.getpid(),
                began=started_at(os.getpid()),
                version=sdk_version(),
                started_at=self._started_at,
                http=self._url,
                hub=self._hub_url,
                processes=(*(one for one in found if one is not None), *workers),
            )
        )

    # ----------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until told to stop; return the exit code.

        Raises:
            UsageError: Something cannot be started.
        """
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._opened: asyncio.Future[tuple[Api, Workers]] = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._press)
        self._make_parts()
        try:
            await self._live()
        except asyncio.CancelledError:  # the second Ctrl-C
            self._kill()
            return _INTERRUPTED
        finally:
            self._kill()
            self._folder.withdraw()
            self._logbook.close()
            self.guard.close()
            if self._hub_port is not None:
                self._hub_port.close()
        self.say("stopped")
        return 0

    def _press(self) -> None:
        self._presses += 1
        if self._presses == 1:
            self._stop.set()
            return
        self.say("ended at once; what was under way is done again by the next `gen-worker up`")
        self._kill()
        for task in asyncio.all_tasks():
            task.cancel()

    def _make_parts(self) -> None:
        self._hub = self._hub_service(self._hub_port.number) if self._hub_port else None
        self._scheduler = self._scheduler_service()
        self._projects = [
            FolderProject(
                root,
                self._folder,
                self,
                self._on_deployed,
                tag=self._options.tag,
                reloads=self._options.reloads,
            )
            for root in self._options.projects
        ]

    async def _live(self) -> None:
        await self._end_leftovers()
        try:
            self._spawn(self._scheduler.run())
            for project in self._projects:
                self._spawn(project.run())
            self._spawn(self._open())
            await self._stop.wait()
        finally:
            await self._end()
        if self._failure is not None:
            raise self._failure

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._note_end)
        self._tasks.append(task)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """End everything when a part has failed."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failure = self._failure or error
            self._stop.set()

    async def _open(self) -> None:
        """Say where the platform is once it answers, and keep its workers."""
        if not await self._scheduler.ready():
            return
        if self._hub is not None:  # not before: the scheduler is what everybody waits for
            self._spawn(self._hub.run())
            self._spawn(self._await_hub(self._hub))
        announced = self._folder.scheduler()
        self._url = str(announced["http"])
        # However often it is started again, it is where it was.
        self._http = _with_port(self._http, self._url)
        self._gateway = _with_port(self._gateway, announced["workers"])
        api = Api(self._url, self._folder.token())
        self._workers = Workers(
            api,
            self._folder,
            self,
            workers=self._options.workers,
            main_tags={"prod", self._options.tag},
            hub=self._hub_url,
        )
        self._opened.set_result((api, self._workers))
        self.say(f"the API is {self._url}, data is kept in {self._folder.path}")
        if self._options.reloads:
            for project in self._projects:
                self.say(
                    f"{project.name}: what the tag {self._options.tag} means is the code in "
                    f"{project.root}, also when it changes (--no-reload leaves the tag alone)"
                )
        self._spawn(self._await_projects())
        self._spawn(self._find_deployed(api))
        self.changed()
        await self._workers.run()

    async def _find_deployed(self, api: Api) -> None:
        """Look at what was deployed before, and is served again."""
        rows = (await asyncio.to_thread(api.get, "/v1/releases"))["releases"]
        if not rows and not self._projects:
            self.say("nothing is deployed yet: run `gen-worker deploy` in a project's folder")
        for row in rows:
            found = msgspec.convert(row, Deployed)
            if self._options.tag in found.tags and found.name not in self._greetings:
                self._on_deployed(found)

    async def _await_projects(self) -> None:
        for project in self._projects:
            await project.was_tried.wait()
        self._announce({"url": self._url, "hub": self._hub_url, "data": self._folder.path})

    async def _await_hub(self, hub: Service) -> None:
        if await hub.ready(_HUB_POLL_S):
            self.say(f"the model hub is {self._hub_url}")

    def _on_deployed(self, deployed: Deployed) -> None:
        name = deployed.name
        if deployed.is_new:
            self.say(f"{name}: release {deployed.release_id[:12]} is deployed")
        before, greeting = self._greetings.get(name, ("", None))
        if before == deployed.release_id:
            return
        if greeting is not None:  # another release has taken its place
            greeting.cancel()
        task = asyncio.ensure_future(self._greet(name, deployed))
        self._greetings[name] = deployed.release_id, task

    async def _greet(self, name: str, deployed: Deployed) -> None:
        """Say that a release answers, and the first time how to call it."""
        api, workers = await asyncio.shield(self._opened)
        workers.look()
        await workers.serving(deployed.key)
        self.say(f"{name}: release {deployed.release_id[:12]} serves")
        if not self._has_greeted:
            self._has_greeted = True
            await self._show_call(api, deployed)
        if self._options.reloads and deployed.is_new:
            await self._prune(api, deployed)

    async def _show_call(self, api: Api, deployed: Deployed) -> None:
        with suppress(WorkerError):
            known = await asyncio.to_thread(api.get, "/v1/functions")
            line = curl_line(self._url, deployed, known, token_file=self._folder.token_file)
            self.say(f"try it:\n\n  {line}\n")

    async def _prune(self, api: Api, deployed: Deployed) -> None:
        """Delete what reloads have left behind; the rest is the user's own."""
        of = deployed.owner, deployed.endpoint
        try:
            gone = await asyncio.to_thread(prune, api, *of, keep=KEPT_RELOADS, by=RELOADER)
        except WorkerError as error:
            self.say(f"{deployed.name}: old releases are still there: {error}")
            return
        for row in gone:
            self.say(f"{deployed.name}: release {row['release_id'][:12]} is deleted, it was old")

    async def _end(self) -> None:
        """End in order: whoever has something to say still finds somebody to say it to."""
        self.say("stopping: workers let their requests end (Ctrl-C again ends at once)")
        for _, greeting in self._greetings.values():
            greeting.cancel()
        for project in self._projects:
            await project.stop()
        if self._workers is not None:
            await self._workers.stop(_WORKERS_END_S)
        await self._scheduler.stop(_SCHEDULER_ENDS_S)
        if self._hub is not None:
            await self._hub.stop(_HUB_ENDS_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _kill(self) -> None:
        for part in (*self._projects, self._workers, self._scheduler, self._hub):
            if part is not None:
                part.kill()

    async def _end_leftovers(self) -> None:
        """End what a supervisor left that was killed; it is ending by itself anyway."""
        left = self._folder.leftovers()
        if not left:
            return
        self.say(f"ending what the last one left: {', '.join(one.name for one in left)}")
        for one in left:
            end_group(one.pid, signal.SIGTERM)
        deadline = time.monotonic() + _LEFTOVERS_END_S
        while any(one.is_running for one in left):
            if time.monotonic() > deadline:
                for one in left:
                    if one.is_running:
                        end_group(one.pid, signal.SIGKILL)
            await asyncio.sleep(0.02)

    # ----------------------------------------------------------------------------------------------

    def _hub_service(self, port: int) -> Service:
        return Service(
            "hub",
            "gen_worker.cli",
            lambda: ["hub", "serve", "--dir", self._folder.hub, "--port", str(port)],
            self,
            interpreter=sys.executable,
            folder=self._folder.path,
            environment={},
            is_ready=lambda _: listens(port),
        )

    def _scheduler_service(self) -> Service:
        def words() -> list[str]:
            where = ["--http", self._http, "--workers", self._gateway]
            return ["scheduler", "serve", "--data", self._folder.path, *where]

        return Service(
            "scheduler",
            "gen_worker.cli",
            words,
            self,
            interpreter=sys.executable,
            folder=self._folder.path,
            environment={},
            is_ready=lambda pid: self._folder.scheduler().get("pid") == pid,
        )


def _with_port(address: str, announced: str) -> str:
    """Return an address with the port that was found for it, where any would do."""
    host, _, port = address.rpartition(":")
    return f"{host}:{announced.rpartition(':')[2]}" if port == "0" else address


def _environment(hub_url: str, folder: DataFolder) -> dict[str, str]:
    """Return what every child has of this process's environment."""
    environment = dict(os.environ)
    environment.pop("__PYVENV_LAUNCHER__", None)
    environment["GEN_WORKER_DATA_DIR"] = folder.path
    if hub_url:
        environment.setdefault("TENSORHUB_URL", hub_url)
    return environment


def refuse_other_scheduler(folder: DataFolder) -> None:
    """Refuse a folder that a scheduler serves which is not a platform's.

    Raises:
        UsageError: It does.
    """
    left = {one.pid for one in folder.leftovers()}
    pid = folder.scheduler().get("pid")
    if pid and pid not in left:
        raise UsageError(
            f"a scheduler serves {folder.path!r} already, as process {pid}: stop it, or name "
            "another folder with --data"
        )
