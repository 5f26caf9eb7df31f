"""The workers of a platform, kept as they are needed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from gen_worker.cli.platform.children import Child, exit_words
from gen_worker.cli.platform.folder import KeptProcess
from gen_worker.cli.platform.pool import (
    Demand,
    Drain,
    Member,
    MemberState,
    ReleaseKey,
    Start,
    decide,
    pause_s,
)
from gen_worker.cli.platform.services import STEADY_S, Surroundings, stop_child
from gen_worker.cli.platform.workers import (
    ENTRYPOINT,
    ask_ticket,
    interpreter_for,
    worker_environment,
)
from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Collection

    from gen_worker.cli.platform.api import Api
    from gen_worker.cli.platform.folder import DataFolder

__all__ = ["Hired", "Workers"]

_LOOK_S = 0.5
_LOOK_FOR_START_S = 0.05
"""While a worker is awaited that was started just now."""
_YOUNG_S = 10.0
_SERVING = frozenset(("ready", "overloaded"))


class Hired:
    """One worker, from the decision to start it to its end."""

    def __init__(self, number: int, key: ReleaseKey, restarts: int = 0) -> None:
        self.restarts = restarts
        self.name = f"{key.endpoint}.{number}"
        self.number = number
        self.key = key
        self.worker_id = f"{self.name}-{key.release_id[:12]}"
        self.state: MemberState = "starting"
        self.began = time.monotonic()
        self.child: Child | None = None

    @property
    def member(self) -> Member:
        return Member(self.name, self.key, self.state, time.monotonic() - self.began)

    @property
    def kept(self) -> KeptProcess | None:
        """What is announced of it."""
        child = self.child
        if child is None:
            return None
        return KeptProcess(
            name=self.name,
            kind="worker",
            pid=child.pid,
            began=child.began,
            started_at=child.started_at,
            state=self.state,
            endpoint=f"{self.key.owner}/{self.key.endpoint}",
            release_id=self.key.release_id,
            worker_id=self.worker_id,
            restarts=self.restarts,
        )


class Workers:
    """Starts and drains workers as the scheduler tells what is needed."""

    def __init__(
        self,
        api: Api,
        folder: DataFolder,
        around: Surroundings,
        *,
        workers: int,
        main_tags: Collection[str],
        hub: str,
    ) -> None:
        """Prepare to keep workers.

        Args:
            api: The scheduler.
            folder: Of the platform.
            around: The platform.
            workers: Wanted of each endpoint.
            main_tags: Tags that most requests go by.
            hub: URL of the model hub; empty without one.
        """
        self._api = api
        self._folder = folder
        self._around = around
        self._workers = workers
        self._main_tags = main_tags
        self._hub = hub
        self._hired: dict[str, Hired] = {}
        self._failures: dict[ReleaseKey, int] = {}
        self._ended: dict[tuple[ReleaseKey, int], int] = {}
        """How often the worker of this number has ended and was not to."""
        self._paused: dict[ReleaseKey, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        self._is_stopping = False

    @property
    def kept(self) -> list[KeptProcess]:
        found = (hired.kept for hired in self._hired.values())
        return [one for one in found if one is not None]

    def look(self) -> None:
        """Ask at once what is needed: something has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Keep workers until `stop`."""
        while not self._is_stopping:
            self._wake.clear()
            try:
                answer, workers = await asyncio.to_thread(self._ask)
            except WorkerError:
                pass  # it is being started again, which the user has been told
            else:
                if not self._is_stopping:
                    self._follow(answer, workers)
            try:
                await asyncio.wait_for(self._wake.wait(), self._pause_s)
            except TimeoutError:
                pass

    async def serving(self, key: ReleaseKey) -> None:
        """Wait until a release has a worker that is connected."""
        while not any(one.key == key and one.state == "running" for one in self._hired.values()):
            self._ready.clear()
            await self._ready.wait()

    async def stop(self, grace_s: float) -> None:
        """Let all workers end what they have, for so long at most."""
        self._is_stopping = True
        self._wake.set()
        children = [hired.child for hired in self._hired.values() if hired.child is not None]
        await asyncio.gather(*(stop_child(child, grace_s) for child in children))
        if self._tasks:
            await asyncio.wait(self._tasks)

    def kill(self) -> None:
        self._is_stopping = True
        for hired in self._hired.values():
            if hired.child is not None:
                hired.child.kill()

    # ----------------------------------------------------------------------------------------------

    @property
    def _pause_s(self) -> float:
        young = time.monotonic() - _YOUNG_S
        is_awaited = any(
            hired.state == "starting" and hired.began > young for hired in self._hired.values()
        )
        return _LOOK_FOR_START_S if is_awaited else _LOOK_S

    def _ask(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Ask what is needed, and who is there if somebody is expected. Blocks."""
        answer = self._api.get("/v1/demand")
        is_awaited = any(hired.state == "starting" for hired in tuple(self._hired.values()))
        return answer, self._api.get("/v1/workers")["workers"] if is_awaited else []

    def _follow(self, answer: dict[str, Any], workers: list[dict[str, Any]]) -> None:
        """Do what the scheduler's view of its releases asks for."""
        demands = [demand_of(row) for row in answer["releases"]]
        serving = {row["worker_id"] for row in workers if row["state"] in _SERVING}
        for hired in self._hired.values():
            if hired.state == "starting" and hired.child and hired.worker_id in serving:
                self._note_ready(hired)
        now = time.monotonic()
        steps = decide(
            demands,
            [hired.member for hired in self._hired.values()],
            workers=self._workers,
            main_tags=self._main_tags,
            paused=self._paused,
            now=now,
        )
        for step in steps:
            match step:
                case Start(key):
                    self._begin(key)
                case Drain(name):
                    self._spawn(self._drain(self._hired[name]))

    def _note_ready(self, hired: Hired) -> None:
        hired.state = "running"
        self._ready.set()
        self._wake.set()  # what it takes the place of may go now
        self._around.changed()

    def _begin(self, key: ReleaseKey) -> None:
        used = {hired.number for hired in self._hired.values() if hired.key.endpoint == key[1]}
        number = next(number for number in range(1, len(used) + 2) if number not in used)
        hired = Hired(number, key, self._ended.get((key, number), 0))
        self._hired[hired.name] = hired
        self._spawn(self._work(hired))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, hired: Hired) -> None:
        """Run one worker to its end."""
        try:
            problem = await self._run(hired)
        finally:
            del self._hired[hired.name]
            self._around.changed()
            self._wake.set()
        if problem and not self._is_stopping and hired.state != "draining":
            self._note_failure(hired, problem)

    async def _run(self, hired: Hired) -> str:
        """Start it and wait for its end; return what is wrong with that."""
        owner, endpoint, release_id = hired.key
        try:
            ticket = await asyncio.to_thread(
                ask_ticket,
                self._api,
                owner=owner,
                endpoint=endpoint,
                release_id=release_id,
                worker_id=hired.worker_id,
            )
            hired.worker_id = ticket.worker_id or hired.worker_id
            command = self._around.guard.command(interpreter_for(ticket, self._folder), ENTRYPOINT)
            if self._is_stopping:
                return ""
            hired.child = await Child.start(
                hired.name,
                command,
                self._around.guard,
                self._around.show,
                environment=worker_environment(
                    self._around.environment, ticket, self._folder, hub=self._hub
                ),
                folder=ticket.source,
            )
        except (WorkerError, OSError) as error:
            return f"cannot be started: {error}"
        self._around.changed()
        if self._is_stopping:
            hired.child.terminate()
        return exit_words(await hired.child.wait())

    def _note_failure(self, hired: Hired, problem: str) -> None:
        is_steady = time.monotonic() - hired.began > STEADY_S
        self._ended[hired.key, hired.number] = hired.restarts + 1
        failures = 1 if is_steady else self._failures.get(hired.key, 0) + 1
        self._failures[hired.key] = failures
        pause = pause_s(failures)
        self._paused[hired.key] = time.monotonic() + pause
        asyncio.get_running_loop().call_later(pause, self._wake.set)
        self._around.say(f"{hired.name} {problem}: another one is started in {pause:g} s")

    async def _drain(self, hired: Hired) -> None:
        """Let a worker end what it has, through its scheduler, or else by itself."""
        hired.state = "draining"
        self._around.changed()
        if hired.child is None:
            return
        try:
            await asyncio.to_thread(
                self._api.post,
                f"/v1/workers/{hired.worker_id}/drain",
                {"reason": "nobody needs it any more"},
            )
        except WorkerError:
            hired.child.terminate()


def demand_of(row: dict[str, Any]) -> Demand:
    """Read one release of `/v1/demand`."""
    key = ReleaseKey(row["owner"], row["endpoint"], row["release_id"])
    return Demand(key, tuple(row["tags"]), row["waiting"] + row["running"])
