"""A request that takes its time tells its whole story; one that ends at once says what it cost."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.errors import FatalError
from gen_worker.runtime.telemetry import TelemetryPolicy
from gen_worker.runtime.wire import ResolvedModel
from gen_worker.testing import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Text(msgspec.Struct):
    text: str = ""


class Ask(msgspec.Struct):
    prompt: str = ""
    num_inference_steps: int = 20
    guidance_scale: float = 7.5
    width: int = 640


class Stage:
    """What a handler waits for."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.go.set()


def gated(stage: Stage) -> Any:
    @inference_function
    def gate(ctx: RequestContext, payload: Text) -> Text:
        stage.begun.set()
        while not stage.go.wait(0.01):
            ctx.raise_if_canceled()
        return payload

    return gate


@inference_function
def echo(ctx: RequestContext, payload: Text) -> Text:
    return payload


@inference_function
async def echo_async(ctx: RequestContext, payload: Text) -> Text:
    return payload


@inference_function
def broken(ctx: RequestContext, payload: Text) -> Text:
    raise FatalError("no more")


@inference_function
def paint(ctx: RequestContext, payload: Ask) -> Text:
    return Text(text=payload.prompt)


LIFE = [
    "request.received",
    "request.started",
    "metrics.compute.started",
    "request.inference.started",
    "request.inference.completed",
    "metrics.compute.completed",
    "metrics.inference",
    "metrics.job",
    "request.completed",
]


@pytest.mark.parametrize("function", ["echo", "echo-async"])
async def test_a_request_that_ends_at_once_is_told_of_by_its_result(
    watched: Any, function: str
) -> None:
    async with watched(echo, echo_async) as room:
        await room.run(function, {"text": "a"})
        assert room.heard.names() == []


async def test_a_failure_at_once_sends_no_more(watched: Any) -> None:
    async with watched(broken) as room:
        await room.run("broken")
        assert room.heard.names() == []


async def test_what_a_result_cannot_say_is_one_event(watched: Any) -> None:
    async with watched(paint) as room:
        await room.run("paint", {"prompt": "a"})
        assert room.heard.names() == ["metrics.job"]
        metrics = room.heard.payload("metrics.job")
        assert metrics["schema_version"] == 1
        assert metrics["function_name"] == "paint"
        assert metrics["peak_ram_bytes"] > 1 << 20
        assert metrics["width"] == 640


@pytest.mark.claims("WORKER_EVENTS")
@pytest.mark.parametrize("function", ["echo", "echo-async"])
async def test_full_detail_tells_every_request_whole(watched: Any, function: str) -> None:
    async with watched(echo, echo_async, policy=TelemetryPolicy(tells_all=True)) as room:
        await room.run(function, {"text": "a"}, job_id="j1")
        assert room.heard.names("r1") == LIFE
        assert room.heard.payload("request.received")["job_id"] == "j1"


async def test_a_request_that_takes_its_time_is_told_as_it_goes(watched: Any, stage: Stage) -> None:
    clock = VirtualClock()
    async with watched(gated(stage), clock=clock) as room:
        models = {"m": ResolvedModel(ref="acme/painter")}
        hints = {"priority": "high", "api_key": "secret-value"}
        job = room.submit("gate", {"text": "abc"}, models=models, hints=hints)
        await asyncio.to_thread(stage.begun.wait)
        clock.advance(0.049)
        await asyncio.sleep(0)
        assert room.heard.names() == []
        clock.advance(0.001)
        started = await room.until("request.inference.started")
        assert room.heard.names() == LIFE[:4]
        assert started["phase"] == "inference"
        assert started["output_mode"] == "single"
        began = room.heard.payload("request.started")
        assert began["required_flavor_refs"] == ["acme/painter"]
        assert began["execution_hints"] == {"priority": "high", "api_key": "<redacted>"}
        assert began["timestamp"] == 1_000_000_000.0
        moment = room.heard.payload("metrics.compute.started")
        assert moment["at"] == "2001-09-09T01:46:40.000Z"
        stage.go.set()
        await job.outcome()
        assert room.heard.names() == LIFE


async def test_what_a_failed_request_tells(watched: Any, stage: Stage) -> None:
    clock = VirtualClock()

    @inference_function
    def fail_later(ctx: RequestContext, payload: Text) -> Text:
        stage.begun.set()
        stage.go.wait(60)
        raise FatalError("no more")

    async with watched(fail_later, clock=clock) as room:
        job = room.submit("fail-later")
        await asyncio.to_thread(stage.begun.wait)
        clock.advance(0.05)
        await room.until("request.inference.started")
        stage.go.set()
        await job.outcome()
        assert room.heard.payload("request.inference.failed")["error_type"] == "FatalError"
        failed = room.heard.payload("request.failed")
        assert failed["error_type"] == "fatal"
        assert failed["safe_message"] == "no more"
        assert "request.completed" not in room.heard.names()


async def test_a_cancel_is_a_failure_of_its_own_type(watched: Any, stage: Stage) -> None:
    clock = VirtualClock()
    async with watched(gated(stage), clock=clock) as room:
        job = room.submit("gate")
        await asyncio.to_thread(stage.begun.wait)
        clock.advance(0.05)
        await room.until("request.inference.started")
        job.call.token.cancel("caller")
        await job.outcome()
        assert room.heard.payload("request.failed")["error_type"] == "canceled"


async def test_a_request_that_waits_for_its_turn_has_not_been_called(
    watched: Any, stage: Stage
) -> None:
    @inference_function(concurrency="sequential")
    def one_by_one(ctx: RequestContext, payload: Text) -> Text:
        stage.begun.set()
        stage.go.wait(60)
        return payload

    clock = VirtualClock()
    async with watched(one_by_one, clock=clock) as room:
        first = room.submit("one-by-one")
        await asyncio.to_thread(stage.begun.wait)
        second = room.submit("one-by-one", request_id="r2")
        clock.advance(0.05)
        await room.until("request.inference.started")
        async with asyncio.timeout(60):
            while len(room.heard.names("r2")) < 3:
                await asyncio.sleep(0.002)
        assert room.heard.names("r2") == LIFE[:3]
        stage.go.set()
        await first.outcome()
        await second.outcome()
        assert room.heard.names("r2") == LIFE


async def test_what_an_author_says_goes_out_at_once(watched: Any) -> None:
    @inference_function
    def chatter(ctx: RequestContext, payload: Text) -> Text:
        ctx.progress(0.5, stage="half")
        ctx.log("hello")
        ctx.emit("mine", {"timestamp": 7, "thing": 1})
        ctx.emit("odd", {"key": {1: {2, 3}}})
        return payload

    async with watched(chatter) as room:
        await room.run("chatter")
        assert room.heard.names("r1") == [
            "request.progress",
            "request.log",
            "mine",
            "odd",
        ]
        assert room.heard.payload("request.progress")["stage"] == "half"
        assert room.heard.payload("request.log")["timestamp"] == 1_000_000_000.0
        assert room.heard.payload("mine") == {"timestamp": 7, "thing": 1}


async def test_what_a_payload_says_of_its_cost(watched: Any) -> None:
    async with watched(paint) as room:
        await room.run("paint", {"prompt": "a", "num_inference_steps": 30})
        metrics = room.heard.payload("metrics.job")
        assert (metrics["steps"], metrics["guidance"], metrics["width"]) == (30, 7.5, 640)
        assert metrics["iters_per_s"] > 0
        assert "height" not in metrics
        await room.run("paint", {"num_inference_steps": "many"}, request_id="r2")
        assert room.heard.names("r2") == [], "it was never called, and cost nothing"


async def test_one_request_that_cannot_be_told_of_costs_no_other(
    watched: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock()
    async with watched(gated(stage), clock=clock) as room:
        first = room.submit("gate")
        monkeypatch.setattr(first, "request", None)
        second = room.submit("gate", request_id="r2")
        await asyncio.to_thread(stage.begun.wait)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        for _ in range(3):
            clock.advance(0.05)
            await asyncio.sleep(0)
        await room.until("request.started")
        assert set(room.heard.names()) == set(room.heard.names("r2"))
        monkeypatch.undo()
        stage.go.set()
        await asyncio.gather(first.outcome(), second.outcome())


async def test_the_disk_is_told_of_when_it_changed(watched: Any, tmp_path: Path) -> None:
    async with watched(echo) as room:
        for models in (["b", "a"], ["a", "b"], ["a"]):
            room.telemetry.disk_models(models, str(tmp_path))
        first, second = room.heard.payloads("models.disk_inventory")
        assert (first["disk_models"], second["disk_models"]) == (["a", "b"], ["a"])
        assert first["disk_backend"] == "local"
        assert len(first["disk_volume_key"]) == 64
