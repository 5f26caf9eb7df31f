"""Live requests: accepted once, given in turn, tried again, canceled, and ended exactly once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import (
    CanceledError,
    DuplicateRequestError,
    OverloadedError,
    RetryableError,
    ValidationError,
    classify,
)
from gen_worker.runtime.scheduler import (
    Ending,
    KeyConflictError,
    NewEvent,
    RequestRecord,
    WaitingLimits,
)
from gen_worker.runtime.scheduler.job_options import JobOptions, Webhook
from gen_worker.runtime.scheduler.requests import RequestOptions, RetryPolicy
from gen_worker.runtime.wire.commands import ResolvedModel

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.requests import Live

QUEUE = "r1/draw"
GRACE_S = RequestOptions().cancel_grace_s
BROKEN = classify(RetryableError("the link broke"))
WRONG = classify(ValidationError("too large"))
WON = Ending(status="succeeded", attempt=1)
DONE = NewEvent(b"result", b'{"output":1}')
STREAMED = NewEvent(b"result", b'{"output":2}')


def delta(sequence: int, attempt: int = 1) -> NewEvent:
    return NewEvent(b"delta", b"%d" % sequence, attempt, sequence)


async def record_of(desk: Any, request_id: str) -> RequestRecord:
    record: RequestRecord | None = await desk.ledger.record(request_id)
    assert record is not None
    return record


async def error_of(desk: Any, live: Live) -> str:
    """Return the message its client is told."""
    failure = (await record_of(desk, live.request_id)).ending
    assert failure is not None
    assert failure.failure is not None
    return failure.failure.message


# -- the usual way ---------------------------------------------------------------------------------


async def test_what_is_submitted_waits_is_given_and_ends(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        assert desk.hands.woken == [QUEUE]
        assert desk.requests.position("a") == 0
        eyes = desk.watch(live)
        assert desk.requests.first(QUEUE) is live
        assert desk.give() is live
        assert (live.attempt, live.worker_id, live.record.status) == (1, "w1", "running")
        assert desk.requests.position("a") is None
        kept = desk.requests.produced(live, 1, [delta(1), delta(2)])
        ended = desk.requests.ended(live, 1, WON, DONE)
        desk.requests.ended(live, 1, WON, DONE)
        assert eyes.events == []
        await kept
        assert eyes.events == [(1, b"delta"), (2, b"delta")]
        await ended
        assert eyes.events[2:] == [(3, b"result")]
        assert eyes.records[-1] == await record_of(desk, "a")
        assert live.is_over
        assert len(desk.requests) == 0
        assert desk.requests.live("a") is None
        assert not desk.requests.watch(live.seq, eyes)


async def test_a_quick_request_began_before_it_ended(open_desk: Any) -> None:
    """Its beginning is written with its end."""
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.pass_s(1)
        desk.give()
        began = desk.clock.now
        desk.pass_s(0.01)
        await desk.requests.ended(live, 1, WON, DONE)
        record = await desk.ledger.record("a")
        assert (record.created_at, record.started_at) == (began - 1, began)
        assert record.ended_at == began + 0.01


async def test_a_worker_gets_what_was_submitted(open_desk: Any) -> None:
    async with open_desk() as desk:
        options = JobOptions(refs=("acme/flux:prod",), factors={"steps": 3.0}, hints={"a": "b"})
        live = await desk.submit("a", payload=b"\x81\xa1a\x01", options=options)
        assert live.options == options
        call = await desk.requests.call(live)
        assert (call.payload, JobOptions.decode(call.options)) == (b"\x81\xa1a\x01", options)


async def test_the_watcher_of_all_is_told_of_each_step(open_desk: Any) -> None:
    async with open_desk() as desk:
        eyes = desk.watch()
        live = await desk.submit("a", options=JobOptions(webhook=Webhook(url="https://a.example")))
        found = desk.requests.by_seq(eyes.records[0].seq)
        assert found is not None
        assert found.options.webhook == Webhook(url="https://a.example")
        desk.give()
        await desk.requests.ended(live, 1, WON, DONE)
        assert [record.status for record in eyes.records] == ["queued", "running", "succeeded"]


async def test_a_watcher_that_raises_harms_nobody(open_desk: Any, caplog: Any) -> None:
    async with open_desk() as desk:

        class Broken:
            def told(self, _events: Any, _record: Any) -> None:
                raise LookupError("broken")

        live = await desk.submit("a")
        desk.requests.watch(live.seq, Broken())
        eyes = desk.watch(live)
        desk.give()
        await desk.requests.ended(live, 1, WON, DONE)
        assert eyes.events == [(1, b"result")]
        assert "a watcher of request 'a'" in caplog.text


async def test_who_watches_no_more_is_told_no_more(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        eyes = desk.watch(live)
        desk.requests.unwatch(live.seq, eyes)
        desk.give()
        assert eyes.records == []


async def test_what_its_caller_does_not_wait_for_is_accepted_all_the_same(open_desk: Any) -> None:
    async with open_desk() as desk:
        task = asyncio.create_task(desk.ask("a"))
        await asyncio.sleep(0)  # it has its place in the ledger
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await desk.settle()
        assert desk.requests.position("a") == 0


async def test_what_is_put_back_is_next_and_no_attempt_is_spent(open_desk: Any) -> None:
    async with open_desk() as desk:
        first, second = await desk.submit("a"), await desk.submit("b")
        taken = desk.requests.take(QUEUE)
        assert taken is first
        desk.requests.put_back(first)
        assert desk.requests.position("a") == 0
        assert desk.give() is first
        desk.requests.put_back(first)  # its worker was too busy
        assert (first.attempt, first.worker_id, first.record.status) == (1, "", "queued")
        assert desk.give() is first
        desk.requests.put_back(second)
        assert desk.requests.length(QUEUE) == 1


# -- keys, bounds, fairness ------------------------------------------------------------------------


async def test_the_same_key_is_the_same_request(open_desk: Any) -> None:
    async with open_desk() as desk:
        first = await desk.submit("a", key="k", digest=b"1")
        again = await desk.ask("b", key="k", digest=b"1")
        assert (again.record.request_id, again.is_new) == ("a", False)
        assert desk.requests.length(QUEUE) == 1
        earlier = await desk.requests.earlier("acme", "k", b"1")
        assert earlier is not None
        assert earlier.seq == first.seq
        assert await desk.requests.earlier("other", "k", b"1") is None
        for other in (
            desk.ask("c", key="k", digest=b"2"),
            desk.requests.earlier("acme", "k", b"2"),
        ):
            with pytest.raises(KeyConflictError, match="'k' belongs to another request") as caught:
                await other
            assert caught.value.request_id == "a"
        with pytest.raises(DuplicateRequestError):
            await desk.submit("a")


async def test_a_key_is_free_again_when_trying_again_may_help(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a", key="k", digest=b"1")
        for _ in range(3):
            desk.give()
            await desk.requests.failed(live, live.attempt, BROKEN)
            desk.pass_s(60)
        assert live.is_over
        assert await desk.requests.earlier("acme", "k", b"1") is None
        assert (await desk.submit("b", key="k", digest=b"1")).request_id == "b"


async def test_queues_are_bounded_and_what_comes_in_time_counts(open_desk: Any, clock: Any) -> None:
    limits = WaitingLimits(max_per_function=3, max_per_owner=2)
    async with open_desk(RequestOptions(waiting=limits)) as desk:
        wanted = [desk.ask(name) for name in "abc"]
        outcomes = await asyncio.gather(*wanted, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == [
            "Submitted",
            "Submitted",
            "OverloadedError",
        ]
        refused = outcomes[2]
        assert isinstance(refused, OverloadedError)
        assert 1 <= refused.retry_after_s <= 60
        await desk.submit("d", owner="other")
        with pytest.raises(OverloadedError, match="'r1/draw' has 3"):
            await desk.submit("e", owner="third")
        assert await desk.ledger.record("e") is None
        desk.give()
        await desk.submit("e", owner="third")


async def test_owners_take_turns_and_priorities_come_first(open_desk: Any) -> None:
    async with open_desk() as desk:
        for name in "abc":
            await desk.submit(name)
        await desk.submit("urgent", priority=1)
        await desk.submit("z", owner="other")
        order = [desk.give().request_id for _ in range(5)]
        assert order == ["urgent", "z", "a", "b", "c"]


async def test_requests_for_other_models_hold_nobody_up(open_desk: Any) -> None:
    async with open_desk() as desk:
        chosen = {"engine": ResolvedModel(ref="me/own", tag="prod", source="override")}
        other = await desk.submit("a", options=JobOptions(models=chosen))
        same = await desk.submit("b", options=JobOptions(models=dict(chosen)))
        usual = await desk.submit("c")
        assert usual.queue == QUEUE
        assert other.queue == same.queue
        assert other.queue.startswith(f"{QUEUE}~")
        assert desk.requests.queues() == {other.queue: 2, QUEUE: 1}
        assert desk.requests.position("c") == 0


# -- failures --------------------------------------------------------------------------------------


async def test_what_may_be_gone_is_tried_again_later_each_time(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        eyes = desk.watch(live)
        for wait_s in (1.0, 2.0):
            desk.give()
            desk.requests.produced(live, live.attempt, [delta(1, live.attempt)])
            await desk.requests.failed(live, live.attempt, BROKEN)
            assert (live.record.status, live.worker_id) == ("queued", "")
            desk.pass_s(wait_s - 0.01)
            assert desk.requests.position("a") is None
            desk.hands.woken.clear()
            desk.pass_s(0.02)
            assert desk.hands.woken == [QUEUE]
        assert [name for _, name in eyes.events] == [b"delta", b"restarted"] * 2
        desk.give()
        await desk.requests.failed(live, 3, BROKEN)
        assert live.record.status == "failed"
        assert await error_of(desk, live) == "the link broke (it failed 3 times)"
        assert eyes.events[-1][1] == b"error"


async def test_what_will_not_be_gone_is_not_tried_again(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        await desk.requests.failed(live, 1, WRONG)
        assert (live.record.status, live.attempt) == ("failed", 1)
        assert await error_of(desk, live) == "too large"


async def test_delays_have_a_random_part_a_bound_and_what_the_failure_asks_for() -> None:
    policy = RetryPolicy(first_delay_s=1.0, max_delay_s=8.0, jitter=0.5)

    def delay_s(made: int, random: float, retry_after_s: float | None = None) -> float:
        from msgspec.structs import replace

        from gen_worker.runtime.scheduler.requests.policy import Attempts

        failure = replace(BROKEN, retry_after_s=retry_after_s)
        return policy.delay_s(Attempts(made, 0), failure, lambda: random)

    assert [delay_s(made, 0.0) for made in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 8, 8]
    assert [delay_s(made, 1.0) for made in (1, 2)] == [0.5, 1.0]
    assert delay_s(1, 0.0, 5.0) == 5.0
    assert delay_s(1, 0.0, 5000.0) == 8.0


async def test_lost_workers_are_counted_apart_and_a_killer_ends(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        await desk.requests.failed(live, 1, BROKEN, is_worker_lost=True)
        for attempt in (2, 3):  # its own failures have as many attempts as ever
            desk.pass_s(60)
            desk.give()
            await desk.requests.failed(live, attempt, BROKEN)
        desk.pass_s(60)
        assert desk.give().attempt == 4
        await desk.requests.failed(live, 4, BROKEN, is_worker_lost=True)
        assert live.is_over
        assert "its worker was lost 2 times" in await error_of(desk, live)
        ending = (await record_of(desk, "a")).ending
        assert ending is not None
        assert ending.failure is not None
        assert not ending.failure.retryable


async def test_of_an_attempt_that_is_over_only_a_whole_result_counts(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        await desk.requests.failed(live, 1, BROKEN, is_worker_lost=True)
        desk.pass_s(60)
        desk.give("w2")
        # It was only cut off, and says now what it did meanwhile.
        await desk.requests.produced(live, 1, [delta(1)])
        await desk.requests.failed(live, 1, BROKEN)
        await desk.requests.ended(live, 1, Ending(status="failed", failure=WRONG, attempt=1), DONE)
        streamed = Ending(status="succeeded", attempt=1, is_streamed=True)
        await desk.requests.ended(live, 1, streamed, STREAMED)
        assert (live.is_over, live.attempt, live.record.last_event_id) == (False, 2, 0)
        await desk.requests.ended(live, 1, WON, DONE)
        assert live.is_over
        assert desk.hands.interrupted == [("a", "interrupt")]
        (event,) = await desk.ledger.events(live.seq)
        assert event.data == DONE.data


async def test_a_result_that_is_being_written_wins_over_a_lost_worker(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        ended = desk.requests.ended(live, 1, WON, DONE)
        desk.requests.failed(live, 1, BROKEN, is_worker_lost=True)
        await ended
        await desk.settle()
        assert (live.record.status, live.attempt, live.lost) == ("succeeded", 1, 0)


# -- cancels and deadlines -------------------------------------------------------------------------


async def test_what_waits_has_ended_when_its_cancel_returns(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        assert await desk.requests.cancel("a")
        assert live.is_over
        record = await record_of(desk, "a")
        assert record.status == "canceled"
        assert desk.requests.take(QUEUE) is None
        assert not await desk.requests.cancel("a")
        assert not await desk.requests.cancel("nobody")
        assert desk.hands.interrupted == []


async def test_what_waits_for_its_next_attempt_is_canceled_too(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        desk.requests.failed(live, 1, BROKEN)
        assert await desk.requests.cancel("a")
        assert live.record.status == "canceled"
        other = await desk.submit("b")
        desk.give()
        await desk.requests.failed(other, 1, BROKEN)
        assert await desk.requests.cancel("b")
        desk.pass_s(60)
        assert desk.requests.take(QUEUE) is None


async def test_what_runs_is_interrupted_and_its_worker_may_say_how_it_ended(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        assert await desk.requests.cancel("a")
        assert not await desk.requests.cancel("a")
        assert desk.hands.interrupted == [("a", "caller")]
        assert live.is_canceling
        assert not live.is_over
        stopped = Ending(status="canceled", failure=classify(CanceledError("stopped")), attempt=1)
        await desk.requests.ended(live, 1, stopped, NewEvent(b"error", b"{}"))
        assert live.record.status == "canceled"
        assert await error_of(desk, live) == "the request was canceled by its caller"


async def test_a_result_that_was_under_way_is_one(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        await desk.requests.cancel("a")
        await desk.requests.ended(live, 1, WON, DONE)
        assert live.record.status == "succeeded"


@pytest.mark.parametrize("is_worker_lost", [True, False])
async def test_what_fails_while_it_is_canceled_is_canceled(
    open_desk: Any, is_worker_lost: bool
) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        await desk.requests.cancel("a")
        await desk.requests.failed(live, 1, BROKEN, is_worker_lost=is_worker_lost)
        assert live.record.status == "canceled"


async def test_after_its_grace_a_cancel_needs_no_worker(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        desk.give()
        await desk.requests.cancel("a")
        desk.pass_s(GRACE_S - 0.1)
        assert not live.is_ending
        desk.pass_s(0.2)
        await desk.settle()
        assert live.record.status == "canceled"


async def test_a_cancel_on_its_way_to_a_worker_reaches_it(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        assert desk.requests.take(QUEUE) is live
        assert await desk.requests.cancel("a")
        desk.requests.given(live, "w1")
        await asyncio.sleep(0)
        assert desk.hands.interrupted == [("a", "caller")]
        assert live.record.worker_id == ""


async def test_who_stops_waiting_for_a_cancel_takes_nothing_back(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a")
        task = asyncio.create_task(desk.requests.cancel("a"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await desk.requests.close()
        assert live.record.status == "canceled"


async def test_a_deadline_ends_what_waits_and_what_runs(open_desk: Any) -> None:
    async with open_desk() as desk:
        deadline_at = desk.clock.now + 10
        running = await desk.submit("a", deadline_at=deadline_at)
        desk.give()
        waiting = await desk.submit("b", deadline_at=deadline_at)
        endless = await desk.submit("c")
        desk.pass_s(9.9)
        assert not running.is_ending
        assert not waiting.is_ending
        desk.pass_s(0.1)
        await desk.settle()
        for live in (running, waiting):
            assert live.record.status == "canceled"
            assert live.record.ending is not None
            failure = live.record.ending.failure
            assert failure is not None
            assert (failure.http_status, failure.exception) == (504, "DeadlineExceededError")
            assert failure.message.startswith(
                "the request had not ended 10 s after it was submitted"
            )
        assert desk.hands.interrupted == [("a", "deadline")]
        assert desk.give() is endless


async def test_a_clock_that_jumps_ends_nothing_early(open_desk: Any) -> None:
    async with open_desk() as desk:
        live = await desk.submit("a", deadline_at=desk.clock.now + 10)
        desk.pass_s(-3600)
        assert not live.is_ending
        desk.pass_s(3600 + 9)
        assert not live.is_ending
        desk.pass_s(2)
        await desk.settle()
        assert live.is_over


async def test_moments_of_what_has_ended_are_forgotten(open_desk: Any) -> None:
    async with open_desk() as desk:
        timers = desk.requests._course.lives._timers
        later = desk.clock.now + 3600
        asked = [desk.ask(f"r{number}", deadline_at=later) for number in range(2000)]
        await asyncio.gather(*asked)
        assert len(timers) == 2000
        ends = [desk.requests.ended(desk.give(), 1, WON, DONE) for _ in range(2000)]
        await asyncio.gather(*ends)
        assert len(timers) < 1100
        live = await desk.submit("a", deadline_at=desk.clock.now + 3600)
        desk.pass_s(3601)
        await desk.settle()
        assert live.record.status == "canceled"


# -- restarts --------------------------------------------------------------------------------------


async def test_everything_goes_on_after_a_restart(open_desk: Any, clock: Any) -> None:
    chosen = {"engine": ResolvedModel(ref="me/own", source="override")}
    async with open_desk() as desk:
        await desk.submit("done")
        await desk.requests.ended(desk.give(), 1, WON, DONE)
        await desk.submit("running")
        desk.give("w7")
        late = await desk.submit("late")
        desk.give()
        await desk.requests.failed(late, 1, BROKEN)
        back = await desk.submit("back")
        desk.give("w8")
        desk.requests.put_back(back)
        await desk.submit("other", options=JobOptions(models=chosen), deadline_at=clock.now + 5)
        await desk.submit("last")
    async with open_desk() as desk:
        requests = desk.requests
        assert {live.request_id for live in requests} == {
            "running",
            "late",
            "back",
            "other",
            "last",
        }
        assert [(one.request_id, one.worker_id) for one in requests.running()] == [
            ("running", "w7")
        ]
        assert [requests.position(name) for name in ("back", "last", "late")] == [0, 1, None]
        other = requests.live("other")
        assert other is not None
        assert other.options.models == chosen
        assert requests.queues() == {QUEUE: 2, other.queue: 1}
        assert set(desk.hands.woken) == {QUEUE, other.queue}
        running = requests.live("running")
        assert running is not None
        assert requests.adopted(running, "w9") is None
        assert requests.adopted(running, "w7") == 1
        await requests.ended(running, 1, WON, DONE)
        desk.pass_s(5)
        assert requests.length(QUEUE) == 3
        await desk.settle()
        assert (await record_of(desk, "other")).status == "canceled"


async def test_a_worker_that_names_what_waits_again_goes_on_with_it(
    open_desk: Any, clock: Any
) -> None:
    async with open_desk() as desk:
        await desk.submit("a")
    async with open_desk() as desk:
        live = desk.requests.live("a")
        assert live is not None
        assert desk.requests.adopted(live, "w1") == 1
        assert desk.requests.take(QUEUE) is None
        await desk.requests.failed(live, 1, BROKEN, is_worker_lost=True)
        assert desk.requests.adopted(live, "w1") == 2  # nothing was streamed yet
        desk.requests.produced(live, 2, [delta(1, 2)])
        await desk.requests.failed(live, 2, BROKEN)
        assert desk.requests.adopted(live, "w1") is None  # a part of it would be missing


async def test_a_restart_forgets_neither_cancels_nor_lost_workers(
    open_desk: Any, clock: Any
) -> None:
    async with open_desk() as desk:
        await desk.submit("a")
        killer = desk.give("w1")
        await desk.requests.failed(killer, 1, BROKEN, is_worker_lost=True)
        await desk.submit("b")
        assert desk.give("w1").request_id == "b"
        await desk.requests.cancel("b")
        desk.pass_s(1)
        assert desk.give("w2") is killer
    async with open_desk() as desk:
        assert desk.hands.interrupted == [("b", "caller")]
        again, canceled = desk.requests.live("a"), desk.requests.live("b")
        assert again is not None
        assert canceled is not None
        assert canceled.is_canceling
        assert desk.requests.adopted(canceled, "w1") == 1
        await desk.requests.failed(again, 2, BROKEN, is_worker_lost=True)
        assert "lost 2 times" in await error_of(desk, again)
        desk.pass_s(GRACE_S)
        await desk.settle()
        assert canceled.record.status == "canceled"
        await desk.settle()
        count = "SELECT count(*) FROM marks"
        left = await desk.ledger.ask(lambda reader: reader.execute(count).fetchone())
        assert left == (0,)


async def test_a_deadline_that_passed_meanwhile_ends_it_at_the_start(
    open_desk: Any, clock: Any
) -> None:
    async with open_desk() as desk:
        await desk.submit("a", deadline_at=clock.now + 5)
    clock.now += 6
    async with open_desk() as desk:
        desk.requests.look()
        await desk.settle()
        assert (await record_of(desk, "a")).status == "canceled"


async def test_nothing_is_taken_once_it_is_closed(open_desk: Any) -> None:
    async with open_desk() as desk:
        live, other = await desk.submit("a"), await desk.submit("b")
        desk.give()
        assert desk.requests.take(QUEUE) is other
    await desk.requests.produced(live, 1, [delta(1)])
    await desk.requests.failed(live, 1, BROKEN, is_worker_lost=True)
    await desk.requests.ended(live, 1, WON, DONE)
    desk.requests.given(other, "w1")
    desk.requests.put_back(live)
    with pytest.raises(RetryableError, match="stopping"):
        await desk.submit("c")
    async with open_desk() as desk:
        assert [live.request_id for live in desk.requests.running()] == ["a"]
        assert desk.requests.position("b") == 0


async def test_a_dispatcher_that_raises_stops_no_timer(open_desk: Any, monkeypatch: Any) -> None:
    def broken(_live: Any, _reason: Any) -> None:
        raise LookupError("broken")

    async with open_desk() as desk:
        monkeypatch.setattr(desk.hands, "interrupt", broken)
        lives = [await desk.submit(name, deadline_at=desk.clock.now + 5) for name in "ab"]
        for _ in lives:
            desk.give()
        with pytest.raises(LookupError):
            desk.pass_s(6)
        async with asyncio.timeout(30):
            while not all(live.is_over for live in lives):
                await asyncio.sleep(0.01)
        third = await desk.submit("c")
        desk.give()
        with pytest.raises(LookupError):
            await desk.requests.cancel("c")
        desk.pass_s(GRACE_S)
        await desk.settle()
        assert third.record.status == "canceled"
