"""What was accepted is kept, what it produced is kept once, and it ends once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import (
    DuplicateRequestError,
    Failure,
    RetryableError,
    ValidationError,
    classify,
)
from gen_worker.events import Timings
from gen_worker.runtime.scheduler import (
    Ending,
    Keeping,
    KeyConflictError,
    Ledger,
    NewEvent,
    RequestFilter,
    Requeued,
    StoredCall,
    StoredEvent,
)
from gen_worker.runtime.scheduler.changes import Assign

if TYPE_CHECKING:
    from pathlib import Path

DONE = Ending(status="succeeded", timings=Timings(compute_ms=2.5), attempt=1)
RESULT = NewEvent(b"result", b'{"output":1}')


def failed(retryable: bool) -> Ending:
    error = RetryableError("later") if retryable else ValueError("never")
    return Ending(status="failed", failure=classify(error), attempt=1)


def delta(sequence: int, attempt: int = 1) -> NewEvent:
    return NewEvent(b"delta", b'{"n":%d}' % sequence, attempt, sequence)


async def all_events(ledger: Ledger, seq: int) -> list[tuple[int, bytes]]:
    return [(event.event_id, event.name) for event in await ledger.events(seq)]


async def test_a_request_is_there_when_its_ledger_is_opened_again(
    open_ledger: Any, submission: Any, clock: Any
) -> None:
    asked = submission(
        "r-1",
        tag="prod",
        release_id="rel-7",
        key="k",
        digest=b"d",
        priority=3,
        timeout_ms=500,
        deadline_at=2_000_000.5,
        payload=b"\x00\xffpayload",
        options=b"options",
    )
    async with open_ledger() as ledger:
        record, is_new = await ledger.submit(asked)
        assert is_new
        assert (record.seq, record.status, record.attempt) == (1, "queued", 1)
        assert record.created_at == record.due_at == clock.now
    async with open_ledger() as ledger:
        assert await ledger.record("r-1") == record
        assert await ledger.call(record.seq) == StoredCall(b"\x00\xffpayload", b"options")
        assert await ledger.unfinished() == (record,)
        for name in asked.__struct_fields__:
            if name not in ("payload", "options"):
                assert getattr(record, name) == getattr(asked, name)
        later, _ = await ledger.submit(submission("r-2"))
        assert later.seq > record.seq


async def test_what_is_not_there_is_none(open_ledger: Any) -> None:
    async with open_ledger() as ledger:
        assert await ledger.record("r-1") is None
        assert await ledger.call(1) is None
        assert await ledger.events(1) == ()
        assert await ledger.append(1, [delta(1)]) == ()
        assert await ledger.end(1, DONE, RESULT) is None
        assert await ledger.requeue(1, 1, due_at=0.0) is None
        assert (await ledger.page()).records == ()


async def test_the_same_key_is_the_same_request(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        first, other_owner, again = await asyncio.gather(
            ledger.submit(submission("r-1", key="k", digest=b"1")),
            ledger.submit(submission("r-2", key="k", digest=b"2", owner="other")),
            ledger.submit(submission("r-3", key="k", digest=b"1")),
        )
        assert first.is_new
        assert other_owner.is_new
        assert again == (first.record, False)
        await ledger.end(first.record.seq, DONE, RESULT)
    async with open_ledger() as ledger:
        record, is_new = await ledger.submit(submission("r-4", key="k", digest=b"1"))
        assert (record.request_id, record.status, is_new) == ("r-1", "succeeded", False)
        assert await ledger.record("r-4") is None


async def test_a_key_of_another_body_is_a_conflict(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        await ledger.submit(submission("r-1", key="k", digest=b"1"))
        with pytest.raises(KeyConflictError, match="give each its own key") as caught:
            await ledger.submit(submission("r-2", key="k", digest=b"2"))
        assert caught.value.request_id == "r-1"
        failure = classify(caught.value, origin="input")
        assert (failure.http_status, failure.code) == (409, "idempotency_conflict")


async def test_only_a_failure_that_may_be_gone_gives_its_key_away(
    open_ledger: Any, submission: Any
) -> None:
    async with open_ledger() as ledger:
        for request_id, ending in (("r-1", failed(True)), ("r-2", failed(False))):
            record, is_new = await ledger.submit(submission(request_id, key="k", digest=b"1"))
            assert is_new
            await ledger.end(record.seq, ending, NewEvent(b"error", b"{}"))
        record, is_new = await ledger.submit(submission("r-3", key="k", digest=b"1"))
        assert (record.request_id, is_new) == ("r-2", False)
        earlier = await ledger.record("r-1")
        assert earlier is not None
        assert (earlier.key, earlier.status) == ("", "failed")


async def test_an_id_is_given_once(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        outcomes = await asyncio.gather(
            ledger.submit(submission("r-1")),
            ledger.submit(submission("r-1")),
            return_exceptions=True,
        )
        assert outcomes[0].is_new  # type: ignore[union-attr]  # it is the first
        assert isinstance(outcomes[1], DuplicateRequestError)
        with pytest.raises(DuplicateRequestError, match="give each its own id"):
            await ledger.submit(submission("r-1", key="k"))
        assert ledger.statistics().requests == 1


async def test_one_that_cannot_be_written_does_not_harm_its_neighbours(
    open_ledger: Any, submission: Any
) -> None:
    async with open_ledger() as ledger:
        outcomes = await asyncio.gather(
            ledger.submit(submission("r-1")),
            ledger.submit(submission("r-2", priority=2**70)),
            ledger.submit(submission("r-3")),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], OverflowError)
        found = [record.request_id for record in await ledger.unfinished()]
        assert found == ["r-1", "r-3"]
        with pytest.raises(ValidationError, match="null character"):
            ledger.submit(submission("r\0"))


async def test_operations_are_written_in_the_order_of_the_calls(
    open_ledger: Any, submission: Any, clock: Any
) -> None:
    async with open_ledger() as ledger:
        record, _ = await ledger.submit(submission("r-1"))
        clock.now += 5
        ledger.assign(record.seq, "w-1", 1, at=clock.now)
        appended = ledger.append(record.seq, [delta(1)])
        requeued = ledger.requeue(record.seq, 1, due_at=clock.now + 9)
        ledger.assign(record.seq, "w-2", 2, at=clock.now - 2)
        stored = await ledger.append(record.seq, [delta(1, attempt=2)])
        assert await appended == (StoredEvent(1, b"delta", b'{"n":1}'),)
        assert await requeued == Requeued(2, StoredEvent(2, b"restarted", b'{"attempt":2}'))
        assert stored == (StoredEvent(3, b"delta", b'{"n":1}'),)
        found = await ledger.record("r-1")
        assert found is not None
        assert (found.status, found.worker_id, found.attempt) == ("running", "w-2", 2)
        assert (found.started_at, found.due_at) == (clock.now - 2, clock.now + 9)
        assert (found.last_event_id, found.last_sequence) == (3, 1)


async def test_what_nobody_waits_for_is_written_soon(open_ledger: Any, submission: Any) -> None:
    async with open_ledger(behind_s=0.001) as ledger:
        record, _ = await ledger.submit(submission("r-1"))
        ledger.assign(record.seq, "w-1", 1, at=0.0)
        async with asyncio.timeout(30):
            while (await ledger.unfinished())[0].status != "running":
                await asyncio.sleep(0)


async def test_an_assignment_of_another_attempt_is_not_noted(
    open_ledger: Any, submission: Any
) -> None:
    async with open_ledger() as ledger:
        record, _ = await ledger.submit(submission("r-1"))
        await ledger.requeue(record.seq, 1, due_at=0.0)
        ledger.assign(record.seq, "w-1", 1, at=0.0)
        await ledger.flush()
        found = await ledger.record("r-1")
        assert found is not None
        assert (found.status, found.attempt, found.worker_id) == ("queued", 2, "")


async def test_output_that_was_said_before_is_left_out(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        record, _ = await ledger.submit(submission("r-1"))
        seq = record.seq
        assert len(await ledger.append(seq, [delta(1), delta(2), delta(2)])) == 2
        progress = NewEvent(b"progress", b"{}")
        assert await ledger.append(seq, [delta(1), progress, delta(2)]) == (
            StoredEvent(3, b"progress", b"{}"),
        )
    async with open_ledger() as ledger:
        (stored,) = await ledger.append(seq, [delta(2), delta(3)])
        assert stored == StoredEvent(4, b"delta", b'{"n":3}')
        names = [b"delta", b"delta", b"progress", b"delta"]
        assert await all_events(ledger, seq) == list(enumerate(names, 1))


async def test_an_attempt_that_is_over_says_nothing_more(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        record, _ = await ledger.submit(submission("r-1"))
        seq = record.seq
        assert await ledger.requeue(seq, 1, due_at=0.0) == Requeued(2, None)
        assert await ledger.requeue(seq, 1, due_at=0.0) is None
        assert await ledger.append(seq, [delta(1), NewEvent(b"event", b"{}", 1)]) == ()
        assert len(await ledger.append(seq, [delta(1, attempt=2)])) == 1


async def test_an_end_comes_with_who_ran_it(open_ledger: Any, submission: Any, clock: Any) -> None:
    """What was assigned may have found no room on the disk."""
    async with open_ledger() as ledger:
        first, _ = await ledger.submit(submission("r-1"))
        later, _ = await ledger.submit(submission("r-2"))
        clock.now += 7
        await ledger.requeue(later.seq, 1, due_at=0.0)
        for record in (first, later):
            assigned = Assign(record.seq, "w-1", 1, clock.now - 3)
            await ledger.end(record.seq, DONE, RESULT, assigned)
        found = [await ledger.record(name) for name in ("r-1", "r-2")]
        assert [(one.worker_id, one.started_at, one.ended_at) for one in found if one] == [
            ("w-1", clock.now - 3, clock.now),
            ("", None, clock.now),
        ]


async def test_the_first_end_counts(open_ledger: Any, submission: Any, clock: Any) -> None:
    async with open_ledger() as ledger:
        record, _ = await ledger.submit(submission("r-1"))
        seq = record.seq
        clock.now += 7
        ends = [ledger.end(seq, DONE, RESULT), ledger.end(seq, failed(False), RESULT)]
        assert await asyncio.gather(*ends) == [StoredEvent(1, b"result", b'{"output":1}'), None]
    async with open_ledger() as ledger:
        assert await ledger.end(seq, DONE, RESULT) is None
        assert await ledger.append(seq, [delta(1)]) == ()
        assert await ledger.requeue(seq, 1, due_at=0.0) is None
        ledger.assign(seq, "w-1", 1, at=clock.now)
        await ledger.flush()
        found = await ledger.record("r-1")
        assert found is not None
        assert (found.status, found.ended_at, found.ending) == ("succeeded", clock.now, DONE)
        assert await ledger.unfinished() == ()
        assert await all_events(ledger, seq) == [(1, b"result")]


async def test_how_it_failed_is_kept(open_ledger: Any, submission: Any) -> None:
    failure = Failure(
        error_type="fatal", retryable=False, http_status=500, exit_code=1, message="\N{SNOWMAN}"
    )
    ending = Ending(status="failed", failure=failure, is_streamed=True)
    async with open_ledger() as ledger:
        record, _ = await ledger.submit(submission("r-1"))
        await ledger.end(record.seq, ending, NewEvent(b"error", b"{}"))
    async with open_ledger() as ledger:
        found = await ledger.record("r-1")
        assert found is not None
        assert found.ending == ending


@pytest.mark.parametrize(("is_streamed", "counts"), [(False, True), (True, False)])
async def test_a_late_result_counts_unless_its_output_was_taken_back(
    open_ledger: Any, submission: Any, is_streamed: bool, counts: bool
) -> None:
    ending = Ending(status="succeeded", is_streamed=is_streamed, attempt=1)
    async with open_ledger() as ledger:
        record, _ = await ledger.submit(submission("r-1"))
        await ledger.requeue(record.seq, 1, due_at=0.0)
        ended = await ledger.end(record.seq, ending, RESULT)
        assert (ended is not None) is counts


async def test_events_come_in_pieces(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        first, _ = await ledger.submit(submission("r-1"))
        second, _ = await ledger.submit(submission("r-2"))
        await ledger.append(first.seq, [delta(number) for number in range(1, 301)])
        await ledger.append(second.seq, [delta(1)])
        found: list[int] = []
        while page := await ledger.events(first.seq, after=len(found), limit=128):
            found += [event.event_id for event in page]
        assert found == list(range(1, 301))
        (one,) = await ledger.events(first.seq, max_bytes=1)
        assert one.event_id == 1
        assert len(await ledger.events(first.seq, max_bytes=15)) == 2


async def test_requests_are_listed_the_latest_first(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        for number in range(10):
            function = "draw" if number % 2 else "paint"
            record, _ = await ledger.submit(submission(f"r-{number}", function=function))
            if number < 4:
                await ledger.end(record.seq, DONE, RESULT)
        found: list[str] = []
        before = None
        while before != 0:
            page = await ledger.page(RequestFilter(function="draw"), before=before, limit=2)
            found += [record.request_id for record in page.records]
            before = page.before
        assert found == ["r-9", "r-7", "r-5", "r-3", "r-1"]
        page = await ledger.page(RequestFilter(status="succeeded", owner="acme"))
        assert [record.seq for record in page.records] == [4, 3, 2, 1]
        assert (await ledger.page(RequestFilter(owner="nobody"))).records == ()


async def test_unfinished_requests_come_in_pieces(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        asked = [ledger.submit(submission(f"r-{number}")) for number in range(10)]
        await asyncio.gather(*asked)
        await ledger.end(5, DONE, RESULT)
        found: list[int] = []
        while page := await ledger.unfinished(after=found[-1] if found else 0, limit=4):
            found += [record.seq for record in page]
        assert found == [1, 2, 3, 4, 6, 7, 8, 9, 10]


async def test_what_ended_long_ago_is_forgotten_and_nothing_else(
    open_ledger: Any, submission: Any, clock: Any
) -> None:
    async with open_ledger(keeping=Keeping(keep_s=100)) as ledger:
        old, _ = await ledger.submit(submission("old", key="k", digest=b"1"))
        open_one, _ = await ledger.submit(submission("open"))
        for record in (old, open_one):
            await ledger.append(record.seq, [delta(1)])
        await ledger.end(old.seq, DONE, RESULT)
        clock.now += 99
        young, _ = await ledger.submit(submission("young"))
        await ledger.end(young.seq, DONE, RESULT)
        assert await ledger.record("old") is not None
        clock.now += 50
        _, is_new = await ledger.submit(submission("again", key="k", digest=b"2"))
        assert is_new
        assert await ledger.record("old") is None
        assert await ledger.call(old.seq) is None
        assert await ledger.events(old.seq) == ()
        assert len(await ledger.events(open_one.seq)) == 1
        assert await ledger.record("young") is not None


@pytest.mark.parametrize("keeping", [Keeping(max_requests=10), Keeping(max_bytes=10 * 101)])
async def test_no_more_is_kept_than_there_is_room_for(
    open_ledger: Any, submission: Any, keeping: Keeping
) -> None:
    async with open_ledger(keeping=keeping) as ledger:
        for number in range(100):
            record, _ = await ledger.submit(submission(f"r-{number}", payload=bytes(89)))
            await ledger.end(record.seq, DONE, RESULT)
        await ledger.flush()
        found = await ledger.page()
        assert [record.seq for record in found.records] == list(range(100, 90, -1))
        assert ledger.statistics()[:3] == (10, 10, 10 * 101)
    async with open_ledger(keeping=keeping) as ledger:
        assert ledger.statistics()[:3] == (10, 10, 10 * 101)


async def test_many_events_are_forgotten_in_small_steps(
    open_ledger: Any, submission: Any, clock: Any
) -> None:
    async with open_ledger(keeping=Keeping(keep_s=100)) as ledger:
        record, _ = await ledger.submit(submission("r-1"))
        await ledger.append(record.seq, [delta(number) for number in range(1, 10_001)])
        await ledger.end(record.seq, DONE, RESULT)
        clock.now += 101
        left: list[int] = []
        while await ledger.record("r-1") is not None:
            await ledger.flush()  # each batch forgets a little
            left.append(len(await ledger.events(record.seq, limit=20_000, max_bytes=10**9)))
        assert left[-1] == 0
        assert set(left) <= {10_001 - 4096, 10_001 - 2 * 4096, 0}
        assert await ledger.events(record.seq) == ()


async def test_a_ledger_that_is_closed_refuses(
    open_ledger: Any, submission: Any, folder: Path
) -> None:
    async with open_ledger() as ledger:
        accepted = ledger.submit(submission("r-1"))
        ledger.assign(1, "w-1", 1, at=0.0)
        await ledger.close()
        assert (await accepted).is_new
        with pytest.raises(RetryableError, match="is stopping"):
            ledger.submit(submission("r-2"))
        with pytest.raises(RetryableError, match="is stopping"):
            ledger.assign(1, "w-1", 1, at=0.0)
        with pytest.raises(RetryableError, match="is stopping"):
            await ledger.record("r-1")
    assert not folder.joinpath("scheduler.db-wal").exists()
    async with open_ledger() as ledger:
        (record,) = await ledger.unfinished()
        assert (record.status, record.worker_id) == ("running", "w-1")


async def test_who_stops_waiting_takes_nothing_back(open_ledger: Any, submission: Any) -> None:
    async with open_ledger() as ledger:
        waiter = asyncio.ensure_future(ledger.submit(submission("r-1")))
        waiter.cancel()
        await ledger.flush()
        assert await ledger.record("r-1") is not None
