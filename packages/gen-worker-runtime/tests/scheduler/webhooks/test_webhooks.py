"""Whoever wants to be told of a request is told, whatever the receiver does meanwhile."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from contextlib import suppress
from typing import Any

import pytest

from gen_worker.errors import ValidationError
from gen_worker.runtime.scheduler import LedgerWriteError
from gen_worker.runtime.scheduler.job_options import Webhook
from gen_worker.runtime.scheduler.webhooks import (
    Delivery,
    WebhookSecrets,
    deliveries,
    tables,
    verify,
)

TIMEOUT_S = 60.0
END = ("completed",)


async def next_of(receiver: Any) -> Any:
    return await asyncio.to_thread(receiver.next)


async def settled(room: Any, record: Any, event: str = "completed") -> Delivery:
    """Wait until nothing more is done for a delivery, and return it."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            found: dict[str, Delivery] = {
                delivery.event: delivery for delivery in await room.webhooks.of(record)
            }
            if event in found and found[event].state not in ("waiting", "pending"):
                return found[event]
            await asyncio.sleep(0.01)


async def test_an_end_is_told_once_and_signed(
    open_room: Any, submission: Any, receiver: Any, secrets: WebhookSecrets
) -> None:
    async with open_room() as room:
        wanted = Webhook(url=receiver.url, events=END)
        record = await room.submit(submission("r-1"), wanted)
        await room.ledger.flush()
        (waiting,) = await room.webhooks.of(record)
        assert (waiting.state, waiting.attempts) == ("waiting", 0)
        room.begin(record)
        await room.end(record)
        got = await next_of(receiver)
        delivery = await settled(room, record)
        assert room.webhooks.statistics()[1:] == (1, 0, 1)
    assert got.json == {
        "request_id": "r-1",
        "status": "succeeded",
        "output": "x" * 100,
        "success": True,
        "events": [],
        "event": "completed",
    }
    (secret,) = secrets.of("acme")
    assert verify(got.body, got.headers, secret) == delivery.webhook_id == waiting.webhook_id
    assert delivery.state == "delivered"
    assert (delivery.attempts, delivery.last_status, delivery.last_error) == (1, 204, "")
    assert receiver.received.empty()


async def test_without_events_all_are_told(open_room: Any, submission: Any, receiver: Any) -> None:
    async with open_room() as room:
        record = await room.submit(submission("r-1"), Webhook(url=receiver.url))
        room.begin(record)
        first = await next_of(receiver)
        await room.end(record)
        second = await next_of(receiver)
        for event in ("started", "completed"):
            await settled(room, record, event)
    assert [one.json["event"] for one in (first, second)] == ["started", "completed"]
    assert [one.json["status"] for one in (first, second)] == ["running", "succeeded"]
    assert first.webhook_id != second.webhook_id


async def test_what_never_began_is_not_told_to_have(
    open_room: Any, submission: Any, receiver: Any
) -> None:
    async with open_room() as room:
        record = await room.submit(submission("r-1"), Webhook(url=receiver.url))
        assert await room.requests.cancel("r-1")
        await settled(room, record)
        assert [one.event for one in await room.webhooks.of(record)] == ["completed"]
    assert (await next_of(receiver)).json["event"] == "completed"
    assert receiver.received.empty()


async def test_who_wants_none_gets_none(open_room: Any, submission: Any) -> None:
    async with open_room() as room:
        record = await room.submit(submission("r-1"), None)
        room.begin(record)
        await room.end(record)
        assert await room.webhooks.of(record) == []
        assert await room.webhooks.pending() == 0


async def test_a_receiver_that_fails_is_told_again_with_the_same_id(
    open_room: Any, submission: Any, make_receiver: Any, answered: Any
) -> None:
    statuses = iter((500, 302, 404, 301, 200))
    away = (("location", "http://127.0.0.1:1/elsewhere"),)
    receiver = make_receiver(lambda _: answered(next(statuses), away))
    async with open_room() as room:
        wanted = Webhook(url=receiver.url, events=END)
        record = await room.submit(submission("r-1"), wanted)
        await room.end(record)
        got = [await next_of(receiver) for _ in range(5)]
        delivery = await settled(room, record)
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 5, 200)
    assert {one.webhook_id for one in got} == {delivery.webhook_id}
    assert receiver.received.empty()


async def test_a_receiver_that_is_gone_is_told_nothing_more_of_the_request(
    open_room: Any, submission: Any, make_receiver: Any, answered: Any
) -> None:
    receiver = make_receiver(lambda _: answered(410))
    async with open_room() as room:
        record = await room.submit(submission("r-1"), Webhook(url=receiver.url))
        room.begin(record)
        delivery = await settled(room, record, "started")
        assert (delivery.state, delivery.attempts, delivery.last_status) == ("gone", 1, 410)
        await room.end(record)
        assert (await settled(room, record)).state == "gone"
        assert room.webhooks.statistics()[1:] == (0, 1, 1)
    assert receiver.received.qsize() == 1


async def test_after_a_while_it_is_given_up(open_room: Any, submission: Any) -> None:
    async with open_room(give_up_after_s=0.2) as room:
        wanted = Webhook(url="http://127.0.0.1:1/", events=END)  # nobody listens there
        record = await room.submit(submission("r-1"), wanted)
        await room.end(record)
        delivery = await settled(room, record)
    assert delivery.state == "failed"
    assert delivery.attempts > 1
    assert delivery.last_error == "no answer (ConnectionRefusedError)"


async def test_a_receiver_says_when_to_come_again(
    open_room: Any, submission: Any, make_receiver: Any, answered: Any
) -> None:
    receiver = make_receiver(lambda _: answered(429, (("retry-after", "600"),)))
    async with open_room(max_retry_s=300.0) as room:
        wanted = Webhook(url=receiver.url, events=END)
        record = await room.submit(submission("r-1"), wanted)
        await room.end(record)
        await next_of(receiver)
        async with asyncio.timeout(TIMEOUT_S):
            while not (delivery := (await room.webhooks.of(record))[0]).attempts:
                await asyncio.sleep(0.01)
    assert delivery.state == "pending"
    assert delivery.last_at is not None
    assert delivery.next_at - delivery.last_at == 300.0  # no longer than the longest


async def test_a_slow_receiver_delays_nobody_else(
    open_room: Any, submission: Any, make_receiver: Any, answered: Any, receiver: Any
) -> None:
    go = threading.Event()

    def wait(_: object) -> Any:
        assert go.wait(TIMEOUT_S)
        return answered()

    slow = make_receiver(wait)
    async with open_room(max_at_once=8, timeout_s=TIMEOUT_S) as room:
        records = []
        for number in range(30):
            wanted = Webhook(url=slow.url, events=END)
            record = await room.submit(submission(f"slow-{number}"), wanted)
            await room.end(record)
            records.append(record)
        for number in range(30):
            wanted = Webhook(url=receiver.url, events=END)
            record = await room.submit(submission(f"other-{number}"), wanted)
            await room.end(record)
            await settled(room, record)
        assert slow.at_once <= 4
        go.set()
        for record in records:
            await settled(room, record)
    assert slow.most_at_once <= 4
    assert receiver.received.qsize() == slow.received.qsize() == 30


async def test_hosts_that_hang_leave_room_for_those_that_answer(
    open_room: Any, submission: Any, make_receiver: Any, answered: Any, receiver: Any
) -> None:
    go = threading.Event()

    def wait(_: object) -> Any:
        assert go.wait(TIMEOUT_S)
        return answered()

    hanging = [make_receiver(wait) for _ in range(6)]
    async with open_room(max_at_once=8, timeout_s=TIMEOUT_S) as room:
        wanted = Webhook(url=receiver.url, events=END)
        known = await room.submit(submission("known"), wanted)
        await room.end(known)
        await settled(room, known)
        for number in range(24):
            url = hanging[number % len(hanging)].url
            record = await room.submit(
                submission(f"hanging-{number}"), Webhook(url=url, events=END)
            )
            await room.end(record)
        record = await room.submit(submission("prompt"), wanted)
        await room.end(record)
        await settled(room, record)
        assert sum(one.at_once for one in hanging) <= 6
        go.set()


async def test_a_receiver_that_takes_a_byte_at_a_time_has_no_more_time_than_others(
    open_room: Any, submission: Any
) -> None:
    is_left = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x: y\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        is_left.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with open_room(timeout_s=0.3, give_up_after_s=0.0) as room:
        wanted = Webhook(url=f"http://127.0.0.1:{port}/", events=END)
        record = await room.submit(submission("r-1"), wanted)
        await room.end(record)
        delivery = await settled(room, record)
    async with asyncio.timeout(TIMEOUT_S):
        await is_left.wait()
    server.close()
    await server.wait_closed()
    assert (delivery.state, delivery.attempts) == ("failed", 1)
    assert delivery.last_error.startswith("no answer")


async def test_what_is_long_is_told_without_its_output(
    open_room: Any, submission: Any, receiver: Any
) -> None:
    async with open_room(max_body_bytes=150) as room:
        wanted = Webhook(url=receiver.url, events=END)
        record = await room.submit(submission("r-1"), wanted)
        await room.end(record)
        got = await next_of(receiver)
        await settled(room, record)
    assert got.json["output"] is None
    assert got.json["is_shortened"] is True
    assert (got.json["request_id"], got.json["status"]) == ("r-1", "succeeded")


# -- where webhooks may lead -----------------------------------------------------------------------


async def test_private_addresses_are_refused_where_they_are_named_and_where_they_are_found(
    open_room: Any, submission: Any, receiver: Any
) -> None:
    async with open_room(allow_private=False, give_up_after_s=0.0) as room:
        for host in ("127.0.0.1", "10.0.0.1", "[::1]", "169.254.169.254", "[::ffff:127.0.0.1]"):
            with pytest.raises(ValidationError, match="no public address"):
                room.webhooks.check(Webhook(url=f"http://{host}:{receiver.port}/"))
        named = Webhook(url=f"http://localhost:{receiver.port}/", events=END)
        room.webhooks.check(named)
        record = await room.submit(submission("r-1"), named)
        await room.end(record)
        delivery = await settled(room, record)
    assert (delivery.state, delivery.last_status) == ("failed", 0)
    assert "127.0.0.1" not in delivery.last_error
    assert "none that webhooks are sent to" in delivery.last_error
    assert receiver.received.empty()


async def test_no_redirect_leads_anywhere(
    open_room: Any, submission: Any, make_receiver: Any, answered: Any, receiver: Any
) -> None:
    targets = iter((receiver.url, "/same", "http://169.254.169.254/latest", "file:///etc/passwd"))
    statuses = iter((302, 307, 308, 303))
    sender = make_receiver(lambda _: answered(next(statuses), (("location", next(targets)),)))
    trusted = (f"http://127.0.0.1:{sender.port}", f"http://127.0.0.1:{receiver.port}")
    async with open_room(allow_private=False, trusted=trusted) as room:
        wanted = Webhook(url=sender.url, events=END)
        room.webhooks.check(wanted)
        record = await room.submit(submission("r-1"), wanted)
        await room.end(record)
        for _ in range(4):
            await next_of(sender)
    assert receiver.received.empty()


async def test_a_url_or_an_event_that_is_none_is_refused(open_room: Any) -> None:
    async with open_room() as room:
        for url in ("", "ftp://example.com/", "http://a b/", "http://user:pw@example.com/"):
            with pytest.raises(ValidationError, match="the webhook's URL"):
                room.webhooks.check(Webhook(url=url))
        with pytest.raises(ValidationError, match="at most 2048"):
            room.webhooks.check(Webhook(url="http://example.com/" + "x" * 2048))
        with pytest.raises(ValidationError, match=r"'ended'.*started, completed"):
            room.webhooks.check(Webhook(url="http://example.com/", events=("ended",)))


# -- what a stop does not lose ---------------------------------------------------------------------


async def test_what_ended_while_nobody_looked_is_told_at_the_start(
    open_room: Any, open_ledger: Any, submission: Any, receiver: Any
) -> None:
    async with open_room() as room:
        wanted = Webhook(url=receiver.url, events=END)
        records = [await room.submit(submission(f"r-{number}"), wanted) for number in range(3)]
    async with open_room() as room:
        room.webhooks.told = lambda *_: None  # as if it were killed before it hears
        for record in records[:2]:
            await room.end(record)
        assert [one.state for one in await room.webhooks.of(records[0])] == ["waiting"]
    async with open_room() as room:
        for record in records[:2]:
            assert (await settled(room, record)).state == "delivered"
        assert [one.state for one in await room.webhooks.of(records[2])] == ["waiting"]
        await room.end(records[2])
        await settled(room, records[2])
    assert {receiver.next().json["request_id"] for _ in range(3)} == {"r-0", "r-1", "r-2"}


async def test_a_receiver_that_was_away_is_told_after_a_restart(
    open_room: Any, submission: Any, make_receiver: Any, answered: Any
) -> None:
    status = 503
    receiver = make_receiver(lambda _: answered(status))
    async with open_room() as room:
        wanted = Webhook(url=receiver.url, events=END)
        record = await room.submit(submission("r-1"), wanted)
        await room.end(record)
        first = await next_of(receiver)
    status = 200
    async with open_room() as room:
        assert (await settled(room, record)).state == "delivered"
        assert await room.webhooks.pending() == 0
    while not receiver.received.empty():
        assert receiver.next().webhook_id == first.webhook_id


async def test_an_attempt_under_way_is_given_up_when_all_stops(
    open_room: Any, submission: Any, make_receiver: Any, answered: Any
) -> None:
    come, go = threading.Event(), threading.Event()

    def wait(_: object) -> Any:
        come.set()
        assert go.wait(TIMEOUT_S)
        return answered()

    receiver = make_receiver(wait)
    async with open_room(timeout_s=TIMEOUT_S) as room:
        wanted = Webhook(url=receiver.url, events=END)
        record = await room.submit(submission("r-1"), wanted)
        await room.end(record)
        assert await asyncio.to_thread(come.wait, TIMEOUT_S)
    go.set()
    async with open_room() as room:
        delivery = await settled(room, record)
    assert (delivery.state, delivery.attempts) == ("delivered", 1)


async def test_a_request_that_is_not_kept_cannot_be_told(
    open_room: Any, submission: Any, receiver: Any
) -> None:
    async with open_room() as room:
        wanted = Webhook(url=receiver.url, events=END)
        record = await room.submit(submission("r-1"), wanted)
        room.webhooks.told = lambda *_: None
        await room.end(record)

        def forget(connection: Any, now: float) -> None:
            connection.execute("UPDATE webhooks SET state = 'pending', happened_at = ?", (now,))
            connection.execute("DELETE FROM requests")

        await room.ledger.transact(forget)
    async with open_room() as room:
        delivery = await settled(room, record)
    assert (delivery.state, delivery.last_error) == ("failed", "the request is not kept any more")
    assert receiver.received.empty()


async def test_what_is_long_over_is_forgotten(
    open_room: Any, submission: Any, receiver: Any
) -> None:
    async with open_room() as room:
        wanted = Webhook(url=receiver.url, events=END)
        record = await room.submit(submission("r-1"), wanted)
        await room.end(record)
        await settled(room, record)
    async with open_room(keep_s=0.0) as room, asyncio.timeout(TIMEOUT_S):
        while await room.webhooks.of(record):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(10))
async def test_a_disk_that_is_full_for_a_while_loses_nothing(
    open_room: Any, submission: Any, receiver: Any, seed: int
) -> None:
    rng = random.Random(seed)
    async with open_room() as room:
        transact = room.ledger.transact

        def perhaps(change: Any) -> Any:
            if rng.random() < 0.5:
                return transact(change)
            refused = asyncio.get_running_loop().create_future()
            error = LedgerWriteError("there is no room", path="")
            error.retry_after_s = 0.01
            refused.set_exception(error)
            return refused

        room.ledger.transact = perhaps
        wanted = Webhook(url=receiver.url, events=END)
        records = [await room.submit(submission(f"r-{number}"), wanted) for number in range(5)]
        for record in records:
            await room.end(record)
        for record in records:
            assert (await settled(room, record)).state == "delivered"
    assert receiver.received.qsize() == 5


async def test_a_look_at_what_is_due_that_fails_is_repeated(
    open_room: Any,
    submission: Any,
    receiver: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever the reason: nobody else would deliver what waits."""
    monkeypatch.setattr(deliveries, "_RECOVERY_S", 0.01)
    failures = [sqlite3.DatabaseError("an odd one")]
    due = tables.due

    def looked(*args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return due(*args, **options)

    monkeypatch.setattr(tables, "due", looked)
    async with open_room() as room:
        record = await room.submit(submission("r-1"), Webhook(url=receiver.url, events=END))
        await room.end(record)
        await next_of(receiver)
    assert not failures
    assert "an odd one" in caplog.text
