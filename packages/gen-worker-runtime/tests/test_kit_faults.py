"""Scripted faults do what they say, between a real worker's connection and the orchestrator end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.runtime.wire import (
    JobRequest,
    JobResult,
    Registration,
    StreamDone,
    TokenDelta,
    WorkerEvent,
)
from gen_worker.testing.cable import Cable
from gen_worker.testing.faults import Fault, StreamFaults, random_faults
from gen_worker.testing.orchestrator import Orchestrator
from gen_worker.testing.workers import working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gen_worker.runtime.worker.worker import Worker
    from gen_worker.testing.orchestrator import WorkerSession


class Text(msgspec.Struct):
    text: str = ""


@inference_function
async def echo(ctx: RequestContext, payload: Text) -> Text:
    ctx.emit("echoing", {})
    return payload


@inference_function
def spell(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for letter in payload.text:
        yield Text(letter)


class Scene:
    def __init__(self, orchestrator: Orchestrator, session: WorkerSession, worker: Worker) -> None:
        self.orchestrator = orchestrator
        self.session = session
        self.worker = worker


@asynccontextmanager
async def scene(faults: StreamFaults | None = None) -> AsyncIterator[Scene]:
    async with (
        Orchestrator(faults=faults) as orchestrator,
        working([echo, spell], orchestrator.address) as worker,
    ):
        yield Scene(orchestrator, await orchestrator.connected(), worker)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_dropped_connection_costs_no_result(after: bool) -> None:
    faults = StreamFaults()
    faults.drop(JobResult, after=after)
    async with scene(faults) as here:
        job = here.session.submit("echo", {"text": "hi"})
        assert await job.output() == {"text": "hi"}
        await here.orchestrator.until(lambda: len(here.session.registrations) == 2)
        assert [fault.kind for fault in faults.happened] == [
            f"drop_{'after' if after else 'before'}"
        ]
        assert job.attempts == 1


async def test_a_job_that_is_lost_on_its_way_is_given_again() -> None:
    faults = StreamFaults()
    faults.drop(JobRequest)
    async with scene(faults) as here:
        job = here.session.submit("echo", {"text": "hi"})
        assert await job.output() == {"text": "hi"}
        assert job.attempts == 2
