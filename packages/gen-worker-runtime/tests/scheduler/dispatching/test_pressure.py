"""Workers are not read from while the disk is behind, and nothing of what they say is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.scheduler.requests import RequestOptions
from gen_worker.runtime.wire import StreamDone

if TYPE_CHECKING:
    from conftest import Kit


async def test_a_worker_that_says_more_than_the_disk_takes_is_held(kit: Kit) -> None:
    options = msgspec.structs.replace(kit.easy, max_unwritten_bytes=200)
    async with kit.scheduling(options=options, described={"echo": kit.streamed}) as platform:
        async with kit.puppet(platform) as worker:
            await platform.submit("r1")
            await worker.job()
            session = platform.gateway.sessions["w1"]
            pauses = 0
            pause = session.pause_reading

            def counted() -> None:
                nonlocal pauses
                pauses += 1
                pause()

            session.pause_reading = counted  # type: ignore[method-assign]
            await worker.stream("r1", *range(1, 301))
            await worker.say(StreamDone(request_id="r1", sequence=301), role="events")
            await worker.finish("r1")
            assert await platform.output("r1") == {"yielded": 300}
            assert pauses > 0
            await platform.seen(lambda: session.is_reading)
            assert platform.dispatcher.unwritten_bytes == 0
            names = [name for name, _ in await platform.events("r1")]
            assert names == ["delta"] * 300 + ["result"]


async def test_nobody_is_read_from_while_requests_are_behind(kit: Kit) -> None:
    requests = RequestOptions(max_uncommitted_bytes=1)
    async with kit.scheduling(requests=requests, described={"echo": kit.streamed}) as platform:
        async with kit.puppet(platform) as worker, kit.puppet(platform, "w2") as other:
            for number in range(2):
                await platform.submit(f"r{number}")
            jobs = [(await one.job()).request_id for one in (worker, other)]

            async def stream(one: object, request_id: str) -> None:
                puppet = worker if one is worker else other
                await puppet.stream(request_id, *range(1, 101))
                await puppet.done(request_id, 101)
                await puppet.finish(request_id)

            await asyncio.gather(*map(stream, (worker, other), jobs))
            for request_id in jobs:
                assert await platform.output(request_id) == {"yielded": 100}
