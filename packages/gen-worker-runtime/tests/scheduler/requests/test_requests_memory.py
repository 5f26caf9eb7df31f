"""Requests that wait take little memory, however large they are and however many."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

from gen_worker.runtime.scheduler import WaitingLimits
from gen_worker.runtime.scheduler.job_options import JobOptions
from gen_worker.runtime.scheduler.requests import RequestOptions

ROOMY = RequestOptions(waiting=WaitingLimits(max_per_owner=100_000))


async def growth_of(desk: Any, count: int, **fields: Any) -> int:
    """Return the bytes that so many requests take."""
    await desk.submit("first", **fields)
    tracemalloc.start()
    try:
        for start in range(0, count, 500):
            numbers = range(start, min(start + 500, count))
            await asyncio.gather(*(desk.ask(f"request-{one:032}", **fields) for one in numbers))
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


async def test_payloads_are_on_disk_only(open_desk: Any) -> None:
    async with open_desk(ROOMY) as desk:
        assert await growth_of(desk, 200, payload=bytes(100_000)) < 2_000_000


async def test_each_takes_about_a_kilobyte(open_desk: Any) -> None:
    """A hundred thousand take about 110 MiB, as the resident set of a process shows it."""
    options = JobOptions(endpoint_owner="acme", refs=("acme/flux:prod",))
    async with open_desk(ROOMY) as desk:
        deadline_at = desk.clock.now + 3600
        grown = await growth_of(desk, 4000, options=options, deadline_at=deadline_at)
        assert grown / 4000 < 1300
