"""What happens rarely: cancels before sending, answers said twice, outfits that fail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.errors import ArtifactTransferError, AuthError
from gen_worker.runtime.scheduler.dispatcher import Equipment
from gen_worker.runtime.wire import (
    EndpointConfig,
    InterruptJob,
    JobRequest,
    JobResult,
    Observation,
    WorkerEvent,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Kit
    from gen_worker.runtime.scheduler.requests import Live
    from gen_worker.runtime.scheduler.snapshots import WorkerState


class Wardrobe:
    """An outfit that does what a test says."""

    def __init__(self, outfit: Callable[[Live], Any]) -> None:
        self._outfit = outfit

    async def outfit(self, live: Live, state: WorkerState, payload: bytes) -> Equipment:
        found = self._outfit(live)
        if asyncio.isfuture(found):
            await found
        return Equipment()

    def config(self, state: WorkerState) -> EndpointConfig:
        return EndpointConfig()


async def test_a_cancel_before_it_is_sent_reaches_no_worker(kit: Kit) -> None:
    gate = asyncio.get_running_loop().create_future()
    asked: list[str] = []

    def slow(live: Live) -> Any:
        asked.append(live.request_id)
        return gate if live.request_id == "r1" else None

    async with kit.scheduling(outfit=Wardrobe(slow)) as platform:
        async with kit.puppet(platform) as worker:
            await platform.submit("r1")
            await platform.seen(lambda: bool(asked))
            assert await platform.requests.cancel("r1")
            gate.set_result(None)
            assert (await platform.end("r1")).status == "canceled"
            await platform.submit("r2")
            assert (await worker.job()).request_id == "r2"
            member = platform.dispatcher.fleet.find("w1")
            assert member is not None
            assert list(member.jobs) == ["r2"]


@pytest.mark.parametrize("is_retryable", [True, False])
async def test_an_outfit_that_fails_fails_the_attempt(kit: Kit, is_retryable: bool) -> None:
    calls = 0

    def failing(live: Live) -> None:
        nonlocal calls
        calls += 1
        if is_retryable and calls > 1:
            return
        if is_retryable:
            raise ArtifactTransferError("the hub is away", retryable=True)
        raise AuthError("no model for you")

    async with kit.scheduling(outfit=Wardrobe(failing)) as platform:
        async with kit.puppet(platform) as worker:
            await platform.submit("r1")
            if is_retryable:
                await worker.job("r1")
                await worker.answer("r1")
                assert (await platform.end("r1")).attempt == 2
            else:
                record = await platform.end("r1")
                assert record.ending is not None
                assert record.ending.failure is not None
                assert record.ending.failure.error_type == "auth"
                assert worker.commands.empty()


async def test_a_failure_that_is_said_twice_spends_one_attempt(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        for _ in range(3):
            await worker.fail("r1", "retryable", retryable=True)
        async with kit.puppet(platform, "w2") as other:
            jobs = asyncio.gather(*(one.commands.get() for one in (worker, other)))
            done, _ = await asyncio.wait({jobs}, timeout=0.3)
            assert not done  # one of them has it, and not both
            jobs.cancel()
        record = await platform.ledger.record("r1")
        assert record is not None
        assert record.attempt == 2


async def test_an_authors_own_limit_is_a_deadline(kit: Kit) -> None:
    async with kit.scheduling(described={"echo": {"timeout_ms": 50}}) as platform:
        async with kit.puppet(platform) as worker:
            await platform.submit("r1")
            await worker.job()
            ran = Observation(runtime_ms=51, peak_memory_bytes=1)
            await worker.say(
                JobResult(request_id="r1", success=False, error_type="canceled", observation=ran),
                role="results",
            )
            record = await platform.end("r1")
            assert record.ending is not None
            assert record.ending.failure is not None
            assert record.ending.failure.http_status == 504


async def test_a_worker_that_does_not_read_is_left_alone(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        session = platform.gateway.sessions["w1"]
        send, refused = session.send, 0

        def unread(command: Any) -> bool:
            nonlocal refused
            if isinstance(command, JobRequest) and not refused:
                refused += 1
                return False
            return send(command)

        session.send = unread  # type: ignore[method-assign]
        await platform.submit("r1")
        await worker.job("r1")
        assert refused == 1
        await worker.answer("r1")
        assert (await platform.end("r1")).attempt == 1


async def test_a_worker_that_the_gateway_has_forgotten_is_compared_anew(kit: Kit) -> None:
    """A session that is made anew counts its connections from 1."""
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        for _ in range(3):
            await worker.cut()
            await worker.connect()
            await worker.expect(EndpointConfig)
        await platform.submit("r1")
        await worker.job("r1")
        await worker.cut()
        await platform.seen(lambda: not platform.gateway.sessions["w1"].is_connected)
        del platform.gateway.sessions["w1"]
        await worker.connect()
        await worker.job("r1")
        await worker.answer("r1")
        assert await platform.output("r1") == {"text": "r1"}


async def test_what_runs_for_nobody_is_stopped(kit: Kit) -> None:
    async with kit.scheduling() as platform:
        async with kit.puppet(platform, "w1", "nobodys") as worker:
            assert (await worker.expect(InterruptJob)).request_id == "nobodys"
            await worker.stream("nobodys", 1, 2)
            await worker.answer("nobodys")
            await platform.submit("r1")
            await worker.job("r1")


async def test_reports_of_the_end_do_not_come_too_late(kit: Kit) -> None:
    """A result may overtake the last reports of its request, which are worth a moment."""
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()

        def said(event_type: str, **payload: Any) -> WorkerEvent:
            data = msgspec.json.encode({"timestamp": 1.0, **payload})
            return WorkerEvent(request_id="r1", event_type=event_type, payload_json=data)

        await worker.say(said("request.log", message="first"), role="events")
        await platform.until("r1", lambda one: one.last_event_id == 1)
        await worker.answer("r1")
        await worker.say(
            said("request.log", message="last"),
            said("metrics.job", schema_version=1),
            said("request.completed", duration_ms=5),
            role="events",
        )
        await platform.end("r1")
        names = [data.get("event_type", name) for name, data in await platform.events("r1")]
        assert names[0] == "request.log"
        assert names[-1] == "result"
        assert "request.completed" not in names


async def test_an_idle_worker_hears_a_sign_of_life(kit: Kit) -> None:
    """Otherwise it takes its connection for half open, and connects anew every minute."""
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        member = platform.dispatcher.fleet.find("w1")
        assert member is not None
        session = platform.gateway.sessions["w1"]
        before = session.statistics().sent
        await worker.beat()
        await platform.submit("r1")
        await worker.job()
        await platform.seen(lambda: session.statistics().sent == before + 1)
        member.told_at -= 60.0
        await worker.beat()
        await platform.seen(lambda: session.statistics().sent == before + 2)
