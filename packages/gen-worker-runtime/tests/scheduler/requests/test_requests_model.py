"""Any order of submissions, gives, results, failures, cancels and restarts: each ends once.

A model keeps for every accepted request what its client may be told. The machine does what a
dispatcher and its workers might, late and twice too; then everything is run to its end.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from gen_worker.errors import OverloadedError, RetryableError, ValidationError, classify
from gen_worker.runtime.scheduler import Ending, KeyConflictError, NewEvent, WaitingLimits
from gen_worker.runtime.scheduler.requests import RequestOptions, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from gen_worker.runtime.scheduler.requests import Live

BROKEN = classify(RetryableError("the link broke"))
WRONG = classify(ValidationError("too large"))
OPTIONS = RequestOptions(
    waiting=WaitingLimits(max_per_function=40, max_per_owner=25),
    retries=RetryPolicy(max_attempts=3, max_lost=2, first_delay_s=1.0),
)
MOST_ATTEMPTS = 4
QUEUE = "r1/draw"
ENDS = {b"result", b"error"}


class Run(NamedTuple):
    """What some worker believes to be running."""

    request_id: str
    attempt: int
    worker_id: str


class Client:
    """Follows one request from its submission on, also after a restart."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.items: list[bytes] = []
        self.ends = 0

    def told(self, events: Any, record: Any) -> None:
        for event in events:
            assert not self.ends, "something came after the end"
            if event.event_id <= (self.events[-1] if self.events else 0):
                continue  # it was read from the ledger already
            self.events.append(event.event_id)
            if event.name == b"restarted":
                self.items.clear()
            elif event.name == b"delta":
                self.items.append(event.data)
            self.ends += event.name in ENDS
        assert (record.ending is not None) == bool(self.ends) or not events


class World:
    """A scheduler, its dispatcher, its workers and its clients."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clients: dict[str, Client] = {}
        self.keys: dict[str, tuple[bytes, str]] = {}
        self.runs: list[Run] = []
        """Of this process's workers, those that are lost and late too."""
        self.count = 0
        self.refused = 0

    # -- what may happen ---------------------------------------------------------------------------

    async def submit(self, desk: Any) -> None:
        self.count += 1
        request_id = f"r{self.count}"
        fields: dict[str, Any] = {
            "owner": self.random.choice("abc"),
            "priority": self.random.choice((-1, 0, 0, 5)),
        }
        if self.random.random() < 0.2:
            fields["deadline_at"] = desk.clock.now + self.random.uniform(0, 20)
        if self.random.random() < 0.3:
            fields |= {"key": f"k{self.random.randrange(8)}", "owner": "a"}
            fields["digest"] = self.random.choice((b"1", b"1", b"2"))
        try:
            submitted = await desk.ask(request_id, **fields)
        except OverloadedError:
            self.refused += 1
            assert desk.requests.length(QUEUE) + 1 >= 25
            return
        except KeyConflictError as error:
            if self.keys[fields["key"]] == (fields["digest"], error.request_id):
                pytest.fail(f"{fields['key']!r} is the same request: {error}")
            return
        if submitted.is_new:
            assert submitted.record.request_id == request_id
            self.clients[request_id] = Client()
            desk.requests.watch(submitted.record.seq, self.clients[request_id])
            if "key" in fields:
                self.keys[fields["key"]] = (fields["digest"], request_id)
        else:
            assert self.keys[fields["key"]] == (fields["digest"], submitted.record.request_id)

    async def give(self, desk: Any) -> None:
        live = desk.requests.take(QUEUE)
        if live is None:
            return
        worker_id = f"w{self.random.randrange(4)}"
        attempt = desk.requests.given(live, worker_id)
        self.runs.append(Run(live.request_id, attempt, worker_id))
        if self.random.random() < 0.1:
            desk.requests.put_back(live)

    async def produce(self, desk: Any) -> None:
        run, live = self.some_run(desk)
        if live is None:
            return
        first = live.record.last_sequence + self.random.randrange(2)
        events = [
            NewEvent(b"delta", b"%d" % number, run.attempt, number)
            for number in range(max(first, 1), first + 3)
        ]
        desk.requests.produced(live, run.attempt, events)

    async def end(self, desk: Any) -> None:
        run, live = self.some_run(desk)
        if live is None:
            return
        is_streamed = self.random.random() < 0.5
        ending = Ending(status="succeeded", attempt=run.attempt, is_streamed=is_streamed)
        desk.requests.ended(live, run.attempt, ending, NewEvent(b"result", b"{}"))

    async def fail(self, desk: Any) -> None:
        run, live = self.some_run(desk)
        if live is not None:
            failure = self.random.choice((BROKEN, BROKEN, BROKEN, WRONG))
            desk.requests.failed(live, run.attempt, failure)

    async def lose(self, desk: Any) -> None:
        run, live = self.some_run(desk)
        if live is not None:
            desk.requests.failed(live, run.attempt, BROKEN, is_worker_lost=True)

    async def adopt(self, desk: Any) -> None:
        run, live = self.some_run(desk)
        if live is None:
            return
        attempt = desk.requests.adopted(live, run.worker_id)
        if attempt is not None:
            self.runs.append(run._replace(attempt=attempt))

    async def cancel(self, desk: Any) -> None:
        if self.clients:
            await desk.requests.cancel(self.random.choice(list(self.clients)))

    async def wait(self, desk: Any) -> None:
        desk.pass_s(self.random.choice((0.1, 1.0, 6.0)))

    async def settle(self, desk: Any) -> None:
        await desk.settle()

    def some_run(self, desk: Any) -> tuple[Run, Live | None]:
        if not self.runs:
            return Run("", 0, ""), None
        run = self.random.choice(self.runs)
        return run, desk.requests.live(run.request_id)

    # -- what must be so ---------------------------------------------------------------------------

    def check(self, desk: Any) -> None:
        lives = {live.request_id: live for live in desk.requests}
        waiting = [live for live in lives.values() if live.place == "queue"]
        positions = sorted(desk.requests.position(live.request_id) for live in waiting)
        assert positions == list(range(len(waiting)))
        assert desk.requests.length(QUEUE) == len(waiting)
        for request_id, client in self.clients.items():
            assert client.ends == (request_id not in lives)
            assert client.events == list(range(1, len(client.events) + 1))
        for live in lives.values():
            assert live.attempt <= MOST_ATTEMPTS

    def stop_following(self, desk: Any) -> None:
        """Have clients hear nothing more of a scheduler that is gone."""
        for live in desk.requests:
            desk.requests.unwatch(live.seq, self.clients[live.request_id])

    async def follow_again(self, desk: Any) -> None:
        """Have clients come back after a restart: what they missed is in the ledger."""
        for request_id, client in self.clients.items():
            record = await desk.ledger.record(request_id)
            assert record is not None
            desk.requests.watch(record.seq, client)
            if not client.ends:
                after = client.events[-1] if client.events else 0
                client.told(await desk.ledger.events(record.seq, after=after), record)

    async def finish(self, desk: Any) -> None:
        """Run everything to its end, with workers that do what they are told."""
        for live in list(desk.requests.running()):
            desk.requests.failed(live, live.attempt, BROKEN, is_worker_lost=True)
        for _ in range(200):
            await desk.settle()
            if not len(desk.requests):
                return
            while (live := desk.requests.take(QUEUE)) is not None:
                attempt = desk.requests.given(live, "w9")
                ending = Ending(status="succeeded", attempt=attempt)
                desk.requests.ended(live, attempt, ending, NewEvent(b"result", b"{}"))
            await desk.settle()
            desk.pass_s(60)
        pytest.fail(f"some do not end: {list(desk.requests)}")

    async def check_all(self, desk: Any) -> None:
        """Compare what clients were told with what is on disk."""
        for request_id, client in self.clients.items():
            record = await desk.ledger.record(request_id)
            assert record is not None
            stored = await desk.ledger.events(record.seq)
            names = Counter(event.name for event in stored)
            assert client.ends == 1 == names[b"result"] + names[b"error"]
            assert stored[-1].name in ENDS
            assert client.events == [event.event_id for event in stored]
            assert record.last_event_id == len(stored)
            assert record.ending is not None
            assert (record.status == "succeeded") == (stored[-1].name == b"result")
            # What was streamed by the attempt that counts is there once and in order.
            numbers = [int(item) for item in client.items]
            assert numbers == sorted(set(numbers))


ACTIONS: dict[str, int] = {
    "submit": 30,
    "give": 25,
    "produce": 15,
    "end": 8,
    "fail": 8,
    "lose": 5,
    "adopt": 3,
    "cancel": 3,
    "wait": 6,
    "settle": 8,
}


@pytest.mark.parametrize("seed", range(16))
async def test_every_accepted_request_ends_exactly_once(
    open_desk: Any, tmp_path: Path, seed: int
) -> None:
    """Half of the stops are as sudden as a kill: the next start finds the disk as it was then."""
    world, folder = World(seed), tmp_path / "at-0"
    names, weights = list(ACTIONS), list(ACTIONS.values())
    for number in range(1, 5):
        async with open_desk(OPTIONS, folder) as desk:
            await world.follow_again(desk)
            for _ in range(150):
                (name,) = world.random.choices(names, weights)
                act: Callable[[Any], Coroutine[Any, Any, None]] = getattr(world, name)
                await act(desk)
                if world.random.random() < 0.2:
                    await asyncio.sleep(0)
            if world.random.random() < 0.5:
                killed = tmp_path / f"at-{number}"
                shutil.copytree(folder, killed, ignore=shutil.ignore_patterns("*-shm"))
                folder = killed
                world.stop_following(desk)
            else:
                await desk.settle()
                world.check(desk)
    async with open_desk(OPTIONS, folder) as desk:
        await world.follow_again(desk)
        await world.finish(desk)
        await world.check_all(desk)
        world.check(desk)
    assert len(world.clients) > 60
