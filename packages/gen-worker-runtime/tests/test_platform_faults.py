"""What goes wrong on a platform goes wrong at the moment it was planned for, and once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.manifest import Manifest
from gen_worker.runtime.scheduler.gateway import Gateway, Session
from gen_worker.runtime.wire import (
    JobRequest,
    JobResult,
    Message,
    Registration,
    StreamDone,
    TokenDelta,
)
from gen_worker.runtime.worker.worker import WorkerOptions
from gen_worker.testing.held_port import HeldPort
from gen_worker.testing.local_worker import LocalWorker
from gen_worker.testing.platform_faults import Mishap, PlatformFaults, random_mishaps
from gen_worker.testing.tester import functions_in

TIMEOUT_S = 60.0
COUNT = 5


class Item(msgspec.Struct):
    number: int = 0


@inference_function
def count(ctx: RequestContext, payload: Item) -> Iterator[Item]:
    for number in range(COUNT):
        yield Item(number)


class Request:
    """One request, and what was heard of it."""

    def __init__(self, request_id: str) -> None:
        self.message = JobRequest(request_id=request_id, function="count", payload=b"\x80")
        self.connection = 0
        self.attempts = 0
        self.heard: list[Message] = []
        """In this attempt."""

    @property
    def sequences(self) -> list[int]:
        return [one.sequence for one in self.heard if isinstance(one, TokenDelta)]

    @property
    def results(self) -> int:
        return sum(isinstance(one, JobResult) for one in self.heard)

    @property
    def is_finished(self) -> bool:
        kinds = {type(one) for one in self.heard}
        return {JobResult, StreamDone} <= kinds and len(set(self.sequences)) == COUNT

    def give(self, session: Session) -> None:
        self.attempts += 1
        self.heard.clear()
        self.connection = session.connection
        session.send(self.message)


class Desk:
    """The least that can be behind a gateway: what a worker does not know of it is given again."""

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}
        self.session: Session | None = None
        self.news = asyncio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self.news.clear()
            await self.news.wait()

    async def run(self, request_id: str) -> Request:
        request = self.requests[request_id] = Request(request_id)
        session = self.session
        assert session is not None
        if session.is_connected:
            request.give(session)
        await self.until(lambda: request.is_finished)
        return request

    def registered(self, session: Session, registration: Registration) -> None:
        self.session = session
        for request in self.requests.values():
            is_known = request.message.request_id in registration.in_flight_request_ids
            if not (request.is_finished or is_known or request.connection == session.connection):
                request.give(session)
        self.news.set()

    def heartbeat(self, session: Session, registration: Registration) -> None: ...

    def heard(self, session: Session, message: Message) -> None:
        request = self.requests.get(getattr(message, "request_id", ""))
        if request is not None:
            request.heard.append(message)
        self.news.set()

    def lost(self, session: Session, reason: str) -> None: ...


class Stage:
    """A desk, its gateway and a worker."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.faults = PlatformFaults(self)
        self.restarts = 0
        self.is_up = asyncio.Lock()

    async def start(self, port: int) -> None:
        self.gateway = Gateway(f"127.0.0.1:{port}", self.desk, passage=self.faults)
        await self.gateway.start()
        self.worker = LocalWorker(
            functions_in(count),
            self.gateway.address,
            token="a-token",
            manifest=Manifest(functions=()),
            options=WorkerOptions(worker_id="worker-1"),
        )
        self.worker.start()
        await self.desk.until(lambda: self.desk.session is not None)

    def call(self, function: Callable[[], None]) -> None:
        function()

    def cut_clients(self) -> None: ...
    def slow_clients(self, seconds: float) -> None: ...
    def move_hub(self, *, away: bool) -> None: ...

    async def lose(self, worker_id: str) -> None:
        await self.worker.vanish()

    async def replace(self, worker_id: str) -> None:
        self.worker.start()

    async def restart(self) -> None:
        async with self.is_up:
            self.restarts += 1
            await self.gateway.stop()
            await self.gateway.start()


@asynccontextmanager
async def staged(*mishaps: Mishap) -> AsyncIterator[Stage]:
    stage = Stage()
    stage.faults.add(*mishaps)
    with HeldPort() as port:
        async with asyncio.timeout(TIMEOUT_S):
            await stage.start(port.number)
            yield stage
            await stage.faults.settle()
        await stage.worker.close()
        await stage.gateway.stop()


class Outcome(msgspec.Struct, frozen=True):
    """Of one request."""

    attempts: int = 1
    starts: int = 1
    """Of workers."""
    results: int = 1
    """That were heard in the last attempt."""


AGAIN = Outcome(attempts=2, starts=2)
TABLE = [
    ([], Outcome()),
    ([Mishap(kind="lose_worker")], AGAIN),
    ([Mishap(kind="lose_worker", at="running")], AGAIN),
    ([Mishap(kind="lose_worker", at="running", after_deltas=3)], AGAIN),
    ([Mishap(kind="lose_worker", at="result")], AGAIN),
    ([Mishap(kind="cut")], Outcome(attempts=2)),
    ([Mishap(kind="cut", at="result")], Outcome()),
    ([Mishap(kind="twice")], Outcome()),
    ([Mishap(kind="twice", at="result")], Outcome(results=2)),
    ([Mishap(kind="twice", at="end")], Outcome(results=2)),
    ([Mishap(kind="delay", at="running", after_deltas=2, seconds=0.05)], Outcome()),
]


@pytest.mark.parametrize(("mishaps", "expected"), TABLE)
async def test_a_mishap_happens_at_its_moment(mishaps: list[Mishap], expected: Outcome) -> None:
    async with staged(*mishaps) as stage:
        request = await stage.desk.run("one")
        assert not stage.faults.pending
        assert stage.faults.happened == mishaps
        starts = stage.worker.starts
    assert Outcome(request.attempts, starts, request.results) == expected


async def test_a_delta_may_come_twice() -> None:
    async with staged(Mishap(kind="twice", at="running", after_deltas=2)) as stage:
        request = await stage.desk.run("one")
    assert request.sequences == [1, 2, 2, 3, 4, 5]


async def test_a_connection_that_is_cut_is_the_same_workers_again() -> None:
    async with staged(Mishap(kind="cut", at="running", after_deltas=2)) as stage:
        request = await stage.desk.run("one")
        assert stage.worker.starts == 1
        assert stage.desk.session is not None
        assert stage.desk.session.connection == 2
    assert request.attempts == 1


async def test_a_silent_worker_is_heard_once_its_silence_ends() -> None:
    async with staged(Mishap(kind="silence", at="running", after_deltas=2)) as stage:
        running = asyncio.ensure_future(stage.desk.run("one"))
        session = stage.desk.session
        assert session is not None
        await stage.desk.until(lambda: bool(stage.faults.happened))
        while session.streams["control"] or session.is_connected:  # the old streams end
            await asyncio.sleep(0)
        while not session.streams["control"]:  # and new ones come, of which nothing is heard
            await asyncio.sleep(0.01)
        assert not session.is_connected
        assert stage.desk.requests["one"].sequences == [1, 2]
        stage.faults.end_silence()
        request = await running
    assert (request.attempts, stage.worker.starts) == (1, 1)


async def test_the_second_time_a_moment_comes_is_the_second_requests() -> None:
    async with staged(Mishap(kind="lose_worker", at="running", after_deltas=1, nth=2)) as stage:
        requests = [await stage.desk.run(name) for name in ("one", "two", "three")]
    assert [request.attempts for request in requests] == [1, 2, 1]


async def test_a_scheduler_that_restarts_is_found_again() -> None:
    async with staged(Mishap(kind="restart", at="running", after_deltas=1)) as stage:
        request = await stage.desk.run("one")
        await stage.faults.settle()
    assert (request.attempts, stage.restarts, stage.worker.starts) == (1, 1, 1)


def test_the_same_seed_is_the_same_plan() -> None:
    assert random_mishaps(7, count=20) == random_mishaps(7, count=20)
    assert random_mishaps(7, count=20) != random_mishaps(8, count=20)
    assert eval(repr(random_mishaps(7, count=20)), {"Mishap": Mishap}) == random_mishaps(
        7, count=20
    )


@pytest.mark.chaos
async def test_whatever_goes_wrong_every_request_is_answered(seed: int) -> None:
    async with staged(*random_mishaps(seed, count=4)) as stage:
        for name in ("one", "two", "three", "four"):
            await stage.desk.run(name)
