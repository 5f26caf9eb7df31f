"""A thread that works in batches: in order, all of it, and each is told what became of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from gen_worker.errors import RetryableError
from gen_worker.runtime.scheduler.lane import Lane

if TYPE_CHECKING:
    from collections.abc import Sequence


class Desk:
    """Doubles what it is given, once it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.has_begun = threading.Event()

    def items(self) -> list[int]:
        return [item for batch in self.batches for item in batch]

    def work(self, items: Sequence[int]) -> Sequence[object]:
        self.has_begun.set()
        assert self.may_go.wait(30)
        self.batches.append(list(items))
        if 13 in items:
            raise LookupError("no 13 here")
        return [ValueError(item) if item < 0 else 2 * item for item in items]


async def begun(desk: Desk) -> None:
    assert await asyncio.to_thread(desk.has_begun.wait, 30)


async def test_what_comes_meanwhile_is_the_next_batch() -> None:
    desk = Desk()
    lane = Lane("desk", desk.work, max_batch=3)
    first = lane.put(0)
    await begun(desk)
    others = [lane.put(number) for number in range(1, 6)]
    assert len(lane) == 5
    desk.may_go.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]
    assert desk.batches == [[0], [1, 2, 3], [4, 5]]
    await lane.close()


async def test_each_is_told_its_own_failure() -> None:
    desk = Desk()
    desk.may_go.set()
    lane = Lane("desk", desk.work, max_batch=10)
    good, bad = lane.put(1), lane.put(-1)
    assert await good == 2
    with pytest.raises(ValueError, match="-1"):
        await bad
    with pytest.raises(LookupError):
        await lane.put(13)
    assert await lane.put(3) == 6
    await lane.close()


async def test_what_nobody_waits_for_goes_along() -> None:
    desk = Desk()
    desk.may_go.set()
    lane = Lane("desk", desk.work, max_batch=10)
    lane.put_behind(1, within_s=3600)
    assert await lane.put(2) == 4
    assert desk.items() == [1, 2]
    lane.put_behind(3, within_s=3600)
    await lane.close()
    assert desk.items() == [1, 2, 3]


async def test_nothing_is_lost_at_the_end() -> None:
    desk = Desk()
    lane = Lane("desk", desk.work, max_batch=2)
    asked = [lane.put(number) for number in range(9)]
    asked[4].cancel()
    closing = asyncio.ensure_future(lane.close())
    await asyncio.sleep(0)
    with pytest.raises(RetryableError, match="is stopping"):
        lane.put(9)
    desk.may_go.set()
    await closing
    await lane.close()
    assert desk.items() == list(range(9))
    assert [future.result() for future in asked if not future.cancelled()] == [
        0, 2, 4, 6, 10, 12, 14, 16
    ]  # fmt: skip


async def test_it_relaxes_when_there_is_nothing_to_do() -> None:
    loop = asyncio.get_running_loop()
    relaxed = asyncio.Event()

    def relax() -> None:
        loop.call_soon_threadsafe(relaxed.set)

    desk = Desk()
    desk.may_go.set()
    lane = Lane("desk", desk.work, max_batch=2, relax=relax)
    async with asyncio.timeout(30):
        await lane.put(1)
        await relaxed.wait()
    await lane.close()


def test_a_thread_ends_when_its_loop_is_gone() -> None:
    desk = Desk()

    async def leave() -> None:
        Lane("left-desk", desk.work, max_batch=2).put(1)
        await begun(desk)

    asyncio.run(leave())
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "left-desk"]
    assert thread.daemon
    desk.may_go.set()
    thread.join(30)
    assert not thread.is_alive()
    assert desk.batches == [[1]]
