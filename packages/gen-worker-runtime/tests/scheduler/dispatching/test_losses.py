"""Workers that are lost, come back, fall silent, refuse or leave: no request is lost by it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.scheduler.gateway import GatewayOptions
from gen_worker.runtime.scheduler.requests import RequestOptions, RetryPolicy
from gen_worker.runtime.wire import Drain, DrainResult, EndpointConfig, InterruptJob

if TYPE_CHECKING:
    import pytest

    from conftest import Kit


async def test_a_worker_that_comes_back_goes_on_with_what_it_names(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        for number in range(2):
            await platform.submit(f"r{number}")
        assert {(await worker.job()).request_id for _ in range(2)} == {"r0", "r1"}
        await worker.cut()
        await platform.seen(lambda: platform.dispatcher.workers()[0].state == "disconnected")
        assert "is gone with 'r0' of echo, 'r1' of echo: " in caplog.text
        await worker.connect("r0")
        assert (await worker.job()).request_id == "r1"  # it had not arrived
        await worker.answer("r0")
        await worker.answer("r1")
        assert [(await platform.end(f"r{number}")).attempt for number in range(2)] == [1, 1]


async def test_what_a_registration_omits_again_and_again_counts_as_lost(kit: Kit) -> None:
    policy = RetryPolicy(first_delay_s=0.01, max_lost=2)
    requests = RequestOptions(retries=policy)
    async with kit.scheduling(requests=requests) as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        for _ in range(4):
            await worker.job("r1")
            await worker.cut()
            await worker.connect()
        record = await platform.end("r1")
        assert record.attempt == 2
        assert record.ending is not None
        assert record.ending.failure is not None
        assert record.ending.failure.error_type == "fatal"


async def test_half_a_stream_of_a_worker_that_lost_it_is_taken_back(kit: Kit) -> None:
    async with kit.scheduling(described={"echo": kit.streamed}) as platform:
        async with kit.puppet(platform) as worker:
            await platform.submit("r1")
            await worker.job()
            await worker.stream("r1", 1, 2)
            await platform.until("r1", lambda one: one.last_sequence == 2)
            await worker.cut()
            await worker.connect()
            await worker.job("r1")
            await worker.stream("r1", 1)
            await worker.done("r1", 2)
            await worker.finish("r1")
            assert await platform.output("r1") == {"yielded": 1}
            names = [name for name, _ in await platform.events("r1")]
            assert names == ["delta", "delta", "restarted", "delta", "result"]


async def test_a_stream_goes_on_through_a_lost_connection(kit: Kit) -> None:
    async with kit.scheduling(described={"echo": kit.streamed}) as platform:
        async with kit.puppet(platform) as worker:
            await platform.submit("r1")
            await worker.job()
            await worker.stream("r1", 1, 2)
            await platform.until("r1", lambda one: one.last_sequence == 2)
            await worker.cut()
            await worker.connect("r1")
            await worker.stream("r1", 2, 3)  # what was in doubt is said again
            await worker.done("r1", 4)
            await worker.finish("r1")
            assert await platform.output("r1") == {"yielded": 3}
            assert (await platform.end("r1")).attempt == 1


async def test_what_a_lost_worker_had_goes_to_another_and_the_first_result_counts(
    kit: Kit,
) -> None:
    options = msgspec.structs.replace(kit.easy, lost_after_s=0.05)
    async with kit.scheduling(options=options) as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        await worker.cut()
        async with kit.puppet(platform, "w2") as other:
            await other.job("r1")
            running = await platform.until("r1", lambda one: one.worker_id == "w2")
            assert running.attempt == 2
            await worker.connect("r1")
            await worker.answer("r1", {"by": "the first"})
            assert await platform.output("r1") == {"by": "the first"}
            assert (await other.expect(InterruptJob)).request_id == "r1"
            await other.answer("r1", {"by": "the second"})
            member = platform.dispatcher.fleet.find("w2")
            await platform.seen(lambda: member is not None and not member.jobs)
            assert len(await platform.events("r1")) == 1


async def test_a_worker_that_takes_jobs_and_goes_silent_is_given_up(kit: Kit) -> None:
    options = msgspec.structs.replace(kit.easy, lost_after_s=0.05)
    gateway = GatewayOptions(silent_after_s=1.5)
    async with kit.scheduling(options=options, gateway=gateway) as platform:
        async with kit.puppet(platform) as worker:
            await platform.submit("r1")
            await worker.job()
            async with kit.puppet(platform, "w2") as other:
                while other.commands.empty():
                    await other.beat()
                    await asyncio.sleep(0.02)
                await other.job("r1")
                await other.answer("r1")
                assert (await platform.end("r1")).attempt == 2


async def test_a_restarted_scheduler_goes_on_with_what_workers_run(kit: Kit) -> None:
    described = {"stream": kit.streamed}
    names = ("echo", "stream")
    async with kit.scheduling(described=described) as platform:
        async with kit.puppet(platform, available_functions=names) as worker:
            await platform.submit("whole")
            await platform.submit("streamed", "stream")
            await platform.submit("omitted")
            for _ in range(3):
                await worker.job()
            await worker.stream("streamed", 1, 2)
            await platform.until("streamed", lambda one: one.last_sequence == 2)
            for name in ("whole", "omitted"):
                await platform.until(name, lambda one: one.status == "running")
            await platform.ledger.flush()
    async with kit.scheduling(described=described) as platform:
        for live in platform.requests:
            platform.follow(live.record)
        in_flight = ("whole", "streamed", "nobody-knows")
        async with kit.puppet(platform, "w1", *in_flight, available_functions=names) as worker:
            assert (await worker.job()).request_id == "omitted"
            await worker.answer("whole")
            await worker.answer("omitted")
            await worker.stream("streamed", 2, 3)
            await worker.done("streamed", 4)
            await worker.finish("streamed")
            assert await platform.output("streamed") == {"yielded": 3}
            assert await platform.output("whole") == {"text": "whole"}
            assert await platform.output("omitted") == {"text": "omitted"}
            for name in ("whole", "streamed"):
                assert (await platform.end(name)).attempt == 1


async def test_what_a_crash_forgot_was_given_is_adopted(kit: Kit) -> None:
    """The ledger says that it waits, and a worker says that it runs it."""
    async with kit.scheduling() as platform:
        await platform.submit("r1")
    options = msgspec.structs.replace(kit.easy, reunion_s=kit.patience_s)
    async with kit.scheduling(options=options) as platform:
        for live in platform.requests:
            platform.follow(live.record)
        async with kit.puppet(platform, "w2"), kit.puppet(platform, "w1", "r1") as worker:
            await platform.until("r1", lambda one: one.worker_id == "w1")
            await worker.answer("r1")
            assert await platform.output("r1") == {"text": "r1"}


async def test_a_worker_that_is_overloaded_is_left_alone_for_a_while(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        async with kit.puppet(platform, "w2") as other:
            await platform.submit("r1")
            await worker.job()  # of two that are alike, the first
            await worker.refuse("r1", "worker_overloaded", retryable=True)
            await other.job("r1")
            member = platform.dispatcher.fleet.find("w1")
            assert member is not None
            assert member.refused_until > member.joined_at
            await other.answer("r1")
            assert (await platform.end("r1")).attempt == 1
        await platform.submit("r2")
        await worker.job("r2")


async def test_a_machine_that_is_not_enough_is_not_asked_again(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        async with kit.puppet(platform, "w2") as other:
            await worker.refuse("r1", "hardware_unmet")
            await other.job("r1")
            await other.answer("r1")
            assert (await platform.end("r1")).attempt == 1
            await platform.submit("r2")
            await other.job("r2")
            await other.refuse("r2", "function_unavailable")
            record = await platform.end("r2")
            assert record.ending is not None
            assert record.ending.failure is not None
            assert record.ending.failure.error_type == "function_unavailable"
            views = platform.dispatcher.workers()
            assert [view.unavailable for view in views] == [{"echo": "not here"}] * 2


async def test_a_drained_worker_finishes_and_leaves(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        assert not await platform.dispatcher.drain("nobody")
        assert await platform.dispatcher.drain("w1", 60.0, "too many")
        order = await worker.expect(Drain)
        assert order.reason == "too many"
        assert order.terminate_after_deadline
        assert order.deadline_unix_ms > 0
        await worker.say(DrainResult(status="draining", reason="too many", active_requests=1))
        await platform.submit("r2")
        async with kit.puppet(platform, "w2") as other:
            await other.job("r2")
            assert platform.dispatcher.workers()[0].state == "draining"
            await worker.cut()
            await worker.connect("r1")
            assert (await worker.expect(Drain)).reason == "too many"  # it is the same process
            await worker.answer("r1")
            await platform.end("r1")
            await worker.say(DrainResult(status="drained", reason="too many"))
            await worker.cut()
            await platform.seen(lambda: len(platform.dispatcher.workers()) == 1)
            await worker.connect()  # another process of this name
            await worker.expect(EndpointConfig)
            await platform.submit("r3")
            await worker.job("r3")
