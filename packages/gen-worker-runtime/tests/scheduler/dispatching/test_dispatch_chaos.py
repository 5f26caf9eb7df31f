"""Workers that fail, refuse, vanish, die and come back at random, and a scheduler that restarts."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.runtime.scheduler import Policy
from gen_worker.runtime.scheduler.requests import RequestOptions, RetryPolicy
from gen_worker.runtime.wire import (
    EndpointConfig,
    InterruptJob,
    JobRequest,
    JobResult,
    Observation,
    StreamDone,
)

if TYPE_CHECKING:
    from conftest import Kit, Platform, Puppet
    from gen_worker.runtime.wire import Message

REQUESTS = 150
WORKERS = 4
_ENDS = {"result", "error"}


class Actor:
    """A worker as the protocol has it: what a connection may have lost is said again."""

    def __init__(self, puppet: Puppet, kit: Kit, rng: random.Random) -> None:
        self.puppet = puppet
        self.kit = kit
        self.rng = rng
        self.active: dict[str, asyncio.Task[None]] = {}
        self.doubtful: dict[str, list[Message]] = {}
        """By request, what was said of it on this connection."""
        self.is_up = False

    async def live(self) -> None:
        """Work until canceled."""
        try:
            await self.connect()
            while True:
                command = await self.puppet.commands.get()
                if isinstance(command, JobRequest):
                    self.take(command)
                elif isinstance(command, InterruptJob):
                    job = self.active.get(command.request_id)
                    if job is not None:
                        job.cancel()
                if not self.is_up or self.rng.random() < 0.04:
                    await self.vanish()
        finally:
            self.is_up = False
            await self.puppet.cut()

    async def connect(self) -> None:
        named = (*self.active, *(one for one in self.doubtful if one not in self.active))
        await self.puppet.connect(*named)
        self.is_up = True
        again, self.doubtful = self.doubtful, {}
        for request_id, messages in again.items():
            for message in messages:
                await self.say(request_id, message)

    async def vanish(self) -> None:
        """Lose the connection, and perhaps the process."""
        self.is_up = False
        await self.puppet.cut()
        while not self.puppet.commands.empty():
            self.puppet.commands.get_nowait()
        if self.rng.random() < 0.4:
            self.die()
        await asyncio.sleep(self.rng.random() * 0.05)
        await self.connect()

    def die(self) -> None:
        for job in self.active.values():
            job.cancel()
        self.active, self.doubtful = {}, {}

    def take(self, request: JobRequest) -> None:
        request_id = request.request_id
        if request_id in self.active:
            return  # its one result answers both
        self.doubtful.pop(request_id, None)
        task = asyncio.create_task(self.run(request))
        self.active[request_id] = task
        task.add_done_callback(lambda task: self.over(request_id, task))

    def over(self, request_id: str, task: asyncio.Task[None]) -> None:
        if self.active.get(request_id) is task:
            del self.active[request_id]
        if not task.cancelled():
            task.exception()

    async def say(self, request_id: str, message: Message) -> None:
        """Say something, now or with the next connection."""
        self.doubtful.setdefault(request_id, []).append(message)
        if self.is_up:
            role: Any = "results" if isinstance(message, JobResult) else "events"
            try:
                await self.puppet.say(message, role=role)
            except Exception:  # the connection is gone; it is said again
                self.is_up = False
                self.puppet.commands.put_nowait(EndpointConfig())

    async def run(self, request: JobRequest) -> None:
        request_id, rng, kit = request.request_id, self.rng, self.kit
        try:
            await asyncio.sleep(rng.random() * 0.01)
            chance = rng.random()
            if chance < 0.08:
                await self.say(request_id, failure(request_id, "worker_overloaded", begun=False))
                return
            if request.function == "stream":
                count = rng.randint(1, 12)
                for number in range(1, count + 1):
                    await self.say(request_id, kit.delta(request_id, number))
                    await asyncio.sleep(rng.random() * 0.002)
                    if chance < 0.16 and number == count // 2:
                        await self.say(request_id, failure(request_id, "retryable"))
                        return
                await self.say(request_id, StreamDone(request_id=request_id, sequence=count + 1))
                await self.say(
                    request_id,
                    JobResult(request_id=request_id, success=True, observation=kit.ran),
                )
            elif chance < 0.16:
                await self.say(request_id, failure(request_id, "retryable"))
            elif chance < 0.2:
                await self.say(request_id, failure(request_id, "fatal"))
            else:
                await self.say(request_id, kit.success(request_id))
        except asyncio.CancelledError:
            if request_id in self.active and self.is_up:
                canceled = asyncio.ensure_future(
                    self.say(request_id, failure(request_id, "canceled"))
                )
                await asyncio.shield(canceled)
            raise


def failure(request_id: str, error_type: str, *, begun: bool = True) -> JobResult:
    return JobResult(
        request_id=request_id,
        success=False,
        error_type=error_type,
        retryable=error_type in ("retryable", "worker_overloaded"),
        safe_message="by chance",
        observation=Observation(runtime_ms=3, peak_memory_bytes=1) if begun else Observation(),
    )


async def submit_some(platform: Platform, rng: random.Random, numbers: range) -> None:
    for number in numbers:
        function = "stream" if number % 3 == 0 else "echo"
        await platform.submit(f"r{number}", function)
        if rng.random() < 0.05:
            await platform.requests.cancel(f"r{rng.randint(0, number)}")
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() * 0.01)


def check(events: list[tuple[str, Any]], name: str) -> None:
    """One end, the last; and of a stream that succeeded every item of its last attempt."""
    names = [one for one, _ in events]
    assert [one for one in names if one in _ENDS] == names[-1:], (name, names)
    last = max((at for at, one in enumerate(names) if one == "restarted"), default=-1)
    items = [data["text"] for one, data in events[last + 1 :] if one == "delta"]
    if names[-1] == "result" and "yielded" in (events[-1][1]["output"] or {}):
        assert events[-1][1]["output"] == {"yielded": len(items)}
        assert items == [f"{number} " for number in range(1, len(items) + 1)]


@pytest.mark.chaos
async def test_each_request_ends_once_whatever_happens(kit: Kit, seed: int) -> None:
    rng = random.Random(seed)
    policy = Policy(settle_s=0.0, look_again_s=0.2)
    options = msgspec.structs.replace(
        kit.easy, policy=policy, lost_after_s=0.1, stream_grace_s=0.5, reunion_s=0.05
    )
    retries = RetryPolicy(max_attempts=50, max_lost=50, first_delay_s=0.005, max_delay_s=0.05)
    requests = RequestOptions(retries=retries, cancel_grace_s=1.0)
    described = {"stream": kit.streamed}
    own: dict[str, Any] = {"options": options, "requests": requests, "described": described}
    half = REQUESTS // 2
    names = ("echo", "stream")
    async with kit.scheduling(**own) as platform:
        address = platform.gateway.address
        actors = [
            Actor(kit.make(platform, f"w{number}", available_functions=names), kit, rng)
            for number in range(WORKERS)
        ]
        tasks = [asyncio.create_task(actor.live()) for actor in actors]
        await submit_some(platform, rng, range(half))
        for task in tasks:  # what this scheduler has not heard, the next one will
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with kit.scheduling(address=address, **own) as platform:
        for live in platform.requests:
            platform.follow(live.record)
        tasks = [asyncio.create_task(actor.live()) for actor in actors]
        await submit_some(platform, rng, range(half, REQUESTS))
        for number in range(REQUESTS):
            name = f"r{number}"
            record = await platform.ledger.record(name)
            assert record is not None
            if record.ending is None:
                platform.follow(record)
                await platform.end(name)
            check(await platform.events(name), name)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for actor in actors:
            actor.die()
        assert len(platform.requests) == 0
        assert platform.requests.queues() == {}
        await platform.seen(lambda: not len(platform.dispatcher.fleet))
        assert platform.dispatcher.unwritten_bytes == 0
