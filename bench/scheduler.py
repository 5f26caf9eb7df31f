"""What 200 workers cost a whole scheduler: idle, and at 1,000 durable jobs per second.

Everything that is between a submission and its answer is there: intake, the ledger on this disk,
the queue, placement, dispatch and the gateway. The peer is the least server that gives jobs to
workers over the same protocol. Both run in processes of their own, each with 200 simulated workers
in another.

    python bench/scheduler.py [--save]
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from peers.served import Bar, Bars, main

from gen_worker.runtime.engine import Invocation
from gen_worker.runtime.http.backend import Target
from gen_worker.runtime.scheduler import Ledger
from gen_worker.runtime.scheduler.catalog import Catalog
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.dispatcher import Dispatcher, Equipment
from gen_worker.runtime.scheduler.gateway import Gateway
from gen_worker.runtime.scheduler.intake import Intake
from gen_worker.runtime.scheduler.releases import Releases
from gen_worker.runtime.scheduler.requests import Requests
from gen_worker.runtime.wire import EndpointConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.models.overrides import RepoFacts
    from gen_worker.models.refs import Ref
    from gen_worker.runtime.scheduler.requests import Live
    from gen_worker.runtime.scheduler.snapshots import WorkerState
    from gen_worker.runtime.scheduler.values import RequestRecord, StoredEvent

PROJECT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "echo")
PAYLOAD = b'{"text":"hello world"}'
TARGET = Target("echo-sync")


class Plain:
    """Knows no model, and equips workers with nothing: these jobs have neither files nor models."""

    async def outfit(self, live: Live, state: WorkerState, payload: bytes) -> Equipment:
        return Equipment()

    def config(self, state: WorkerState) -> EndpointConfig:
        return EndpointConfig()

    async def look_up(self, ref: Ref) -> RepoFacts | None:
        return None


class Waiter:
    """Waits for one request's end."""

    def __init__(self, answered: Callable[[], None]) -> None:
        self.answered = answered

    def told(self, events: Sequence[StoredEvent], record: RequestRecord) -> None:
        if record.ending is not None:
            assert record.ending.failure is None, record
            self.answered()


class Whole:
    """A scheduler in one folder."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="bench-scheduler-")
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        clock = steady_clock()
        self.ledger = await Ledger.open(os.path.join(self.folder.name, "ledger"), clock=clock)
        releases = await Releases.open(os.path.join(self.folder.name, "releases"), self.ledger)
        published = await releases.publish(
            PROJECT, lock=self.lock(), environment="bench", owner="bench", first_tag="prod"
        )
        catalog = Catalog(releases)
        self.requests = Requests(self.ledger, clock=clock)
        self.dispatcher = Dispatcher(catalog, Plain(), self.ledger, clock=clock)
        self.requests.runner = self.dispatcher
        self.gateway = Gateway("127.0.0.1:0", self.dispatcher)
        self.intake = Intake(
            self.requests,
            releases.tags,
            catalog,
            hub=Plain(),
            costs=self.dispatcher.costs,
            pool=self.dispatcher.fleet,
            clock=clock,
        )
        await self.requests.start()
        await self.dispatcher.start(self.requests)
        await self.gateway.start()
        self.release_id = published.record.release_id
        return f"{self.gateway.address}/{self.release_id}"

    def lock(self) -> bytes:
        path = os.path.join(self.folder.name, "endpoint.lock")
        command = [sys.executable, "-m", "gen_worker.discover", "--root", PROJECT, "-o", path]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(path, "rb") as file:
            return file.read()

    async def stop(self) -> None:
        await self.gateway.stop()
        await self.dispatcher.close()
        await self.requests.close()
        await self.ledger.close()
        self.folder.cleanup()

    def connected(self) -> int:
        return min(len(self.dispatcher.workers()), self.gateway.statistics().streams // 3)

    def submit(self, number: int, answered: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(self.submitted(number, answered))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def submitted(self, number: int, answered: Callable[[], None]) -> None:
        call = Invocation(
            function="", payload=PAYLOAD, request_id=f"job-{number}", owner=f"owner-{number % 20}"
        )
        submitted = await self.intake.submit(TARGET, call, body=PAYLOAD)
        if not self.requests.watch(submitted.record.seq, Waiter(answered)):
            answered()  # it has ended before anybody asked


if __name__ == "__main__":
    main(
        __file__,
        "scheduler",
        Whole,
        Bars(
            idle=Bar(3, 1.5, "%"),
            load=Bar(50, 30, "%"),
            added=Bar(10, 4, "ms"),
            memory=Bar(90, 70, "MiB"),
        ),
    )
