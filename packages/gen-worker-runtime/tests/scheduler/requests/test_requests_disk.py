"""A disk without room: what was accepted is kept and ends, what is submitted is refused."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import RetryableError, classify
from gen_worker.runtime.scheduler import Ending, LedgerWriteError, NewEvent
from gen_worker.runtime.scheduler.requests import RequestOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BROKEN = classify(RetryableError("the link broke"))
WON = Ending(status="succeeded", attempt=1)
DONE = NewEvent(b"result", b'{"output":1}')


@contextmanager
def full_disk(desk: Any) -> Iterator[list[int]]:
    """Have every batch of the ledger refused; yields how large they were."""
    journal, refused = desk.ledger._journal, list[int]()
    lane = desk.ledger._writing

    def refuse(operations: Sequence[object]) -> Sequence[object]:
        refused.append(len(operations))
        error = LedgerWriteError("the disk is full", path="here", is_full=True)
        return [error] * len(operations)

    lane._work = refuse
    try:
        yield refused
    finally:
        lane._work = journal.commit


def deltas(*sequences: int) -> list[NewEvent]:
    return [NewEvent(b"delta", b"%d" % number, 1, number) for number in sequences]


async def test_what_was_said_meanwhile_is_kept_in_order(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        eyes = desk.watch(live)
        desk.give()
        kept = desk.requests.produced(live, 1, deltas(1))
        await kept
        with full_disk(desk):
            later = [desk.requests.produced(live, 1, deltas(2))]
            with pytest.raises(LedgerWriteError):
                await desk.ledger.flush()
            later += [desk.requests.produced(live, 1, deltas(number)) for number in (3, 4)]
            ended = desk.requests.ended(live, 1, WON, DONE)
            with pytest.raises(LedgerWriteError):
                await desk.ask("b")
            assert not any(future.done() for future in (*later, ended))
            assert [name for _, name in eyes.events] == [b"delta"]
            assert desk.requests.live("a") is live
        await ended
        assert all(future.done() for future in later)
        assert live.record.status == "succeeded"
        events = await desk.ledger.events(live.seq)
        assert [event.data for event in events] == [b"1", b"2", b"3", b"4", DONE.data]
        assert [event_id for event_id, _ in eyes.events] == [1, 2, 3, 4, 5]
        assert (await desk.submit("b")).request_id == "b"


async def test_all_go_on_once_there_is_room_for_one(open_desk: Any) -> None:
    async with open_desk() as desk:
        lives = [await desk.submit(f"r{number}") for number in range(20)]
        for _ in lives:
            desk.give()
        with full_disk(desk):
            ends = [desk.requests.ended(live, 1, WON, DONE) for live in lives[:10]]
            ends += [desk.requests.failed(live, 1, BROKEN) for live in lives[10:]]
            with pytest.raises(LedgerWriteError):
                await desk.ledger.flush()
        await asyncio.gather(*ends)
        assert [live.record.status for live in lives] == ["succeeded"] * 10 + ["queued"] * 10
        desk.pass_s(60)
        assert desk.requests.length("r1/draw") == 10


async def test_who_ran_it_and_since_when_is_kept_with_its_end(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        with full_disk(desk):
            desk.give("w7")
            began = desk.clock.now
            with pytest.raises(LedgerWriteError):
                await desk.ledger.flush()
        desk.pass_s(3)
        await desk.requests.ended(live, 1, WON, DONE)
        record = await desk.ledger.record("a")
        assert (record.worker_id, record.started_at, record.ended_at) == ("w7", began, began + 3)


async def test_a_cancel_that_cannot_be_kept_is_refused(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        with full_disk(desk), pytest.raises(LedgerWriteError):
            await desk.requests.cancel("a")
        assert not live.is_canceling
        assert await desk.requests.cancel("a")
        assert live.record.status == "canceled"


async def test_what_has_no_room_yet_is_bounded(open_desk: Any) -> None:
    async with open_desk(RequestOptions(max_uncommitted_bytes=100)) as desk:
        live = await desk.submit("a")
        desk.give()
        assert not desk.requests.is_behind
        with full_disk(desk):
            kept = [desk.requests.produced(live, 1, deltas(number)) for number in range(1, 200)]
            assert desk.requests.is_behind
        await asyncio.gather(*kept)
        assert not desk.requests.is_behind
        assert live.record.last_sequence == 199


async def test_the_scheduler_stops_also_when_the_disk_is_full(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        with full_disk(desk):
            ended = desk.requests.ended(live, 1, WON, DONE)
            await desk.requests.close()
            await ended
            assert not live.is_over
    async with open_desk() as desk:
        assert desk.requests.live("a") is not None


async def test_a_deadline_that_passes_meanwhile_ends_it_later(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a", deadline_at=desk.clock.now + 5)
        with full_disk(desk):
            desk.pass_s(6)
            assert desk.requests.take("r1/draw") is None
            with pytest.raises(LedgerWriteError):
                await desk.ledger.flush()
            assert not live.is_over
        async with asyncio.timeout(30):
            while not live.is_over:
                await asyncio.sleep(0.01)
        assert live.record.status == "canceled"


async def test_a_request_that_says_too_much_ends(open_desk: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("gen_worker.runtime.scheduler.changes.MAX_EVENTS", 10)
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        await desk.requests.produced(live, 1, deltas(*range(1, 10)))
        await desk.requests.produced(live, 1, deltas(10, 11))
        await desk.settle()
        assert live.record.status == "failed"
        assert desk.hands.interrupted == [("a", "interrupt")]
        (*_, last) = await desk.ledger.events(live.seq)
        assert b"has produced 9 events" in last.data
