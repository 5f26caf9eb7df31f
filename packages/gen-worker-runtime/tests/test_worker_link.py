"""A worker's connection against a real orchestrator end on loopback, which fails in every way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gen_worker.runtime.wire import (
    DownloadModel,
    JobRequest,
    JobResult,
    LoadModelResult,
    Registration,
    Resources,
    StreamDone,
    TokenDelta,
)
from gen_worker.runtime.worker.addresses import parse_address
from gen_worker.runtime.worker.backoff import Backoff
from gen_worker.runtime.worker.link import Link
from gen_worker.runtime.worker.states import Exit, LinkPolicy
from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gen_worker.runtime.wire import Message
    from gen_worker.runtime.worker.outbox import Role


class Echo:
    """A worker that answers each job with its own payload."""

    link: Link

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.losses: list[str] = []
        self.failures: list[str] = []
        self.opens = 0

    def registration(
        self, *, role: Role, is_heartbeat: bool, stream_started_unix_ms: int
    ) -> Registration:
        return Registration(
            resources=Resources(worker_id="w1"),
            is_heartbeat=is_heartbeat,
            in_flight_request_ids=() if is_heartbeat else self.link.outbox.unsent_request_ids(),
            stream_started_unix_ms=stream_started_unix_ms,
            stream_role=role,
        )

    def token(self) -> str:
        return "a-token"

    def dialing(self, address: str) -> None:
        pass

    def opened(self) -> None:
        self.opens += 1

    def unreached(self, reason: str) -> None:
        self.failures.append(reason)

    def lost(self, reason: str) -> None:
        self.losses.append(reason)

    def receive(self, message: Message) -> None:
        self.received.append(message)
        if isinstance(message, JobRequest):
            result = JobResult(request_id=message.request_id, success=True, payload=message.payload)
            self.link.outbox.result(result)
        else:
            raise RuntimeError("a handler that fails must not break the connection")


class Gate:
    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


@asynccontextmanager
async def linked(
    orchestrator: Orchestrator, *, splits: bool = True, **policy: Any
) -> AsyncIterator[tuple[Echo, asyncio.Task[Exit]]]:
    handler = Echo()
    policy.setdefault("backoff", Backoff(0.01, 0.05, 0.0))
    policy.setdefault("grace_s", 0.05)
    seeds = (parse_address(orchestrator.address),)
    handler.link = Link(LinkPolicy(seeds=seeds, **policy), handler, heartbeat_s=0.05, splits=splits)
    task = asyncio.create_task(handler.link.run())
    try:
        yield handler, task
    finally:
        await handler.link.leave(0.0)
        await task


SPLITS = pytest.mark.parametrize("splits", [True, False], ids=["three", "one"])


@SPLITS
async def test_a_job_is_answered(splits: bool) -> None:
    async with Orchestrator() as orchestrator, linked(orchestrator, splits=splits):
        worker = await orchestrator.connected()
        job = worker.submit("echo", {"n": 1})
        assert await job.output() == {"n": 1}
        assert worker.metadata["authorization"] == "Bearer a-token"


async def test_each_stream_begins_with_a_registration_and_carries_its_own() -> None:
    async with Orchestrator() as orchestrator, linked(orchestrator) as (handler, _):
        worker = await orchestrator.connected()
        await orchestrator.until(lambda: len(worker.streams) == 3)
        outbox = handler.link.outbox
        outbox.delta(TokenDelta(request_id="r", delta_text="a", sequence=0), Gate())
        outbox.end(StreamDone(request_id="r", sequence=0))
        outbox.result(JobResult(request_id="r", success=True))
        outbox.control(LoadModelResult(model_id="m", success=True))
        await orchestrator.until(
            lambda: all(worker.heard(kind) for kind in (JobResult, LoadModelResult, StreamDone))
        )
        first: dict[str, Any] = {}
        carried: dict[str, set[str]] = {}
        for role, message in worker.messages:
            first.setdefault(role, message)
            carried.setdefault(role, set()).add(type(message).__name__)
        assert {role: message.stream_role for role, message in first.items()} == {
            "control": "control",
            "results": "results",
            "events": "events",
        }
        assert [message.is_heartbeat for message in first.values()] == [False, True, True]
        assert carried["results"] == {"Registration", "JobResult"}
        assert carried["events"] == {"Registration", "TokenDelta", "StreamDone"}


async def test_heartbeats_say_since_when_the_connection_is_open() -> None:
    async with Orchestrator() as orchestrator, linked(orchestrator):
        worker = await orchestrator.connected()

        def beats() -> list[Registration]:
            return [one for one in worker.heard(Registration) if one.is_heartbeat]

        await orchestrator.until(lambda: len(beats()) > 4)
        assert len({one.stream_started_unix_ms for one in worker.heard(Registration)}) == 1


@SPLITS
async def test_a_restarted_orchestrator_gets_the_results_it_missed(splits: bool) -> None:
    async with Orchestrator() as orchestrator, linked(orchestrator, splits=splits) as (handler, _):
        worker = await orchestrator.connected()
        await orchestrator.stop()
        await orchestrator.until(lambda: not worker.is_connected)
        handler.link.outbox.result(JobResult(request_id="late", success=True))
        await orchestrator.start()
        await orchestrator.until(lambda: worker.heard(JobResult))
        assert worker.registrations[-1].in_flight_request_ids == ("late",)
        order = [type(message) for _, message in worker.messages]
        assert order.index(JobResult) > order.index(Registration)


async def test_a_result_that_may_be_lost_is_sent_again() -> None:
    async with Orchestrator() as orchestrator, linked(orchestrator):
        worker = await orchestrator.connected()
        job = worker.submit("echo")
        await job.result()
        await orchestrator.stop()
        await orchestrator.start()
        await orchestrator.until(lambda: len(job.results) == 2)
        assert job.results[0] == job.results[1]


async def test_a_handler_that_fails_and_bytes_that_mean_nothing_leave_the_connection() -> None:
    async with Orchestrator() as orchestrator, linked(orchestrator) as (handler, _):
        worker = await orchestrator.connected()
        worker.send(b"\xff\xff\xff")
        worker.send(b"")
        worker.send(DownloadModel(model_id="m"))
        job = worker.submit("echo")
        await job.result()
        assert handler.opens == 1


async def test_without_its_own_streams_everything_goes_over_control() -> None:
    async with Orchestrator() as orchestrator, linked(orchestrator) as (handler, _):
        worker = await orchestrator.connected()
        await orchestrator.until(lambda: len(worker.streams) == 3)
        orchestrator.cut("results")
        await orchestrator.until(lambda: worker.streams["events"] == 0)
        job = worker.submit("echo")
        await job.result()
        roles = [role for role, message in worker.messages if isinstance(message, JobResult)]
        assert roles == ["control"]
        assert handler.opens == 1


async def test_a_clean_end_is_followed_by_a_new_connection() -> None:
    async with Orchestrator() as orchestrator, linked(orchestrator) as (handler, _):
        worker = await orchestrator.connected()
        orchestrator.cut("control")
        await orchestrator.until(lambda: len(worker.registrations) == 2)
        assert handler.losses == ["OK"]


async def test_an_orchestrator_that_speaks_another_protocol_ends_the_worker() -> None:
    async with Orchestrator() as orchestrator:
        orchestrator.refusal = (
            grpc.StatusCode.FAILED_PRECONDITION,
            "unsupported_worker_protocol: worker speaks 1.9",
        )
        async with linked(orchestrator) as (_, task):
            exit = await asyncio.wait_for(task, 60)
    assert (exit.code, exit.phase) == (1, "scheduler_protocol_incompatible")


async def test_a_redirect_is_followed_where_that_is_allowed() -> None:
    async with Orchestrator() as leader, Orchestrator() as follower:
        follower.refusal = (grpc.StatusCode.FAILED_PRECONDITION, f"not_leader:{leader.address}")
        async with linked(follower, follows_redirects=True):
            worker = await leader.connected()
            await worker.submit("echo").result()


async def test_nobody_there_ends_with_the_registration_watchdog() -> None:
    orchestrator = Orchestrator("127.0.0.1:1")
    async with linked(orchestrator, register_timeout_s=0.3) as (_, task):
        exit = await asyncio.wait_for(task, 60)
    assert (exit.code, exit.phase) == (1, "startup_timeout_unregistered")
    assert exit.detail.startswith("no orchestrator took the registration; ")
    assert "grpc://127.0.0.1:1" in exit.detail


async def test_a_dial_that_fails_is_no_lost_connection() -> None:
    async with linked(Orchestrator("127.0.0.1:1"), max_attempts=2) as (handler, task):
        exit = await asyncio.wait_for(task, 60)
    (failure,) = handler.failures
    assert failure.startswith("UNAVAILABLE: ")
    assert handler.losses == []
    assert exit.phase == "scheduler_connect_failed"
    text = "2 attempts in a row failed, the last to grpc://127.0.0.1:1: UNAVAILABLE: "
    assert exit.detail.startswith(text)


@SPLITS
async def test_leaving_while_dialing_does_not_wait_for_more(splits: bool) -> None:
    async with Orchestrator() as orchestrator, linked(orchestrator, splits=splits) as (handler, _):
        await asyncio.sleep(0)
        assert handler.link.state.phase == "dialing"
        async with asyncio.timeout(60):  # in this task, and so before the stream is opened
            await handler.link.leave(600.0)


@SPLITS
async def test_leaving_writes_what_waits(splits: bool) -> None:
    async with (
        Orchestrator() as orchestrator,
        linked(orchestrator, splits=splits) as (handler, task),
    ):
        worker = await orchestrator.connected()
        for number in range(500):
            handler.link.outbox.result(JobResult(request_id=f"r{number}", success=True))
        await handler.link.leave(30.0)
        assert (await task).phase == "stopped"
        await orchestrator.until(lambda: not any(worker.streams.values()))
        assert len(worker.heard(JobResult)) == 500
