"""What a real worker tells a real orchestrator about its jobs, over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, Resources, inference_function
from gen_worker.runtime.telemetry import TelemetryPolicy
from gen_worker.runtime.telemetry.catalog import find, problems_of
from gen_worker.runtime.wire import DiagnosticLog, Drain, JobResult, WorkerEvent
from gen_worker.runtime.worker.outbox import OutboxLimits
from gen_worker.runtime.worker.process import metrics_served
from gen_worker.testing import VirtualClock
from gen_worker.testing.orchestrator import Orchestrator, WorkerSession

GO: list[asyncio.Event] = []
"""What `linger` waits for; the last one is the present test's."""


class Text(msgspec.Struct):
    text: str = ""
    steps: int = 4


@inference_function(resources=Resources(runtime_scales_with=("steps",)))
async def echo(ctx: RequestContext, payload: Text) -> Text:
    return payload


@inference_function
def echo_sync(ctx: RequestContext, payload: Text) -> Text:
    return payload


@inference_function
async def linger(ctx: RequestContext, payload: Text) -> Text:
    ctx.log("here")
    await GO[-1].wait()
    return payload


@inference_function
async def spell(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
    for letter in payload.text:
        await asyncio.sleep(0.02)
        yield Text(text=letter)


@inference_function
def broken(ctx: RequestContext, payload: Text) -> Text:
    raise RuntimeError("as expected")


ALL = (echo, echo_sync, linger, spell, broken)
FULL = TelemetryPolicy(tells_all=True)


def names(job: Any) -> list[str]:
    return [event.event_type for event in job.events]


def said(event: WorkerEvent) -> dict[str, Any]:
    payload: dict[str, Any] = msgspec.json.decode(event.payload_json)
    return payload


def problems(worker: WorkerSession) -> list[str]:
    """Return how everything that was said differs from the catalog."""
    return [
        problem
        for event in worker.events()
        if find(event.event_type)
        for problem in problems_of(event.event_type, said(event), request_id=event.request_id)
    ]


@pytest.mark.parametrize("function", ["echo", "echo-sync"])
async def test_one_event_follows_the_result_of_a_quick_job(work: Any, function: str) -> None:
    clock = VirtualClock()
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, splits=False, clock=clock):
        worker = await orchestrator.connected()
        jobs = [worker.submit(function, {"text": str(number)}) for number in range(20)]
        await orchestrator.until(lambda: all(names(job) == ["metrics.job"] for job in jobs))
        for job in jobs:
            about = [message for _, message in worker.messages if _is_about(message, job)]
            assert [type(message) for message in about] == [JobResult, WorkerEvent]
            assert said(job.events[0])["steps"] == 4
        assert problems(worker) == []


def _is_about(message: object, job: Any) -> bool:
    return bool(getattr(message, "request_id", None) == job.request.request_id)


async def test_a_job_that_takes_its_time_is_followed(work: Any) -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        GO.append(asyncio.Event())
        job = worker.submit("linger", {}, job_id="j1")
        await orchestrator.until(lambda: "request.inference.started" in names(job))
        GO[-1].set()
        await orchestrator.until(lambda: "request.completed" in names(job))
        assert [name for name in names(job) if name != "request.log"] == [
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
        assert problems(worker) == []


async def test_everything_is_told_when_asked_for(work: Any) -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, telemetry=FULL):
        worker = await orchestrator.connected()
        good, bad = worker.submit("echo"), worker.submit("broken")
        await orchestrator.until(lambda: "request.completed" in names(good))
        await orchestrator.until(lambda: "request.failed" in names(bad))
        assert names(bad)[3:5] == ["request.inference.started", "request.inference.failed"]
        assert problems(worker) == []


async def test_the_result_says_how_it_went(work: Any) -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        observation = (await worker.submit("echo", {"steps": 30}).result()).observation
        assert observation is not None
        assert observation.scaling_factors == {"steps": 30}
        assert observation.peak_memory_bytes > 1 << 20
        assert observation.status == "succeeded"
        streamed = (await worker.submit("spell", {"text": "abcdef"}).result()).observation
        assert streamed is not None
        assert streamed.ttft_ms >= 10  # timers of the loop may be a little early
        assert streamed.itl_p50_ms >= 10


async def test_a_traceback_is_for_the_operator(work: Any) -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, worker_id="w7"):
        worker = await orchestrator.connected()
        result = await worker.submit("broken").result()
        assert result.safe_message == "internal error"
        await orchestrator.until(lambda: worker.heard(DiagnosticLog))
        (report,) = worker.heard(DiagnosticLog)
        assert (report.worker_id, report.category) == ("w7", "request_exception")
        assert "as expected" in msgspec.json.decode(report.payload_json)["traceback"]


async def test_events_give_way_and_that_is_told(work: Any) -> None:
    limits = OutboxLimits(max_telemetry=4)
    async with (
        Orchestrator() as orchestrator,
        work(orchestrator, *ALL, telemetry=FULL, outbox_limits=limits),
    ):
        worker = await orchestrator.connected()
        jobs = [worker.submit("echo") for _ in range(50)]
        for job in jobs:
            assert (await job.result()).success
        await orchestrator.until(lambda: worker.events("worker.telemetry.shed"))
        assert said(worker.events("worker.telemetry.shed")[0])["shed"] > 0


async def test_a_worker_serves_its_figures(work: Any, tmp_path: Any) -> None:
    path = f"{tmp_path}/m.sock"
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL) as running:
        worker = await orchestrator.connected()
        await worker.submit("spell", {"text": "abc"}).result()
        await worker.submit("nothing-like-it").result()
        async with metrics_served(running, f"unix://{path}"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            text = (await reader.read()).decode()
            writer.close()
        assert 'gen_worker_requests_total{function="spell",outcome="succeeded"} 1.0' in text
        refused = 'function="",outcome="refused_unknown_function"'
        assert f"gen_worker_requests_total{{{refused}}} 1.0" in text
        assert 'gen_worker_deltas_total{function="spell"} 3.0' in text
        assert "gen_worker_connections_total 1.0" in text
        assert "gen_worker_connected 1.0" in text


async def test_a_worker_says_why_it_is_not_ready(work: Any, tmp_path: Any) -> None:
    path = f"{tmp_path}/m.sock"

    async def ready() -> str:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        head, _, reason = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return f"{head.split()[1]} {reason}"

    async with Orchestrator() as orchestrator, work(orchestrator, *ALL) as running:
        await orchestrator.connected()
        async with metrics_served(running, f"unix://{path}"):
            await orchestrator.until(lambda: running.is_ready)
            assert await ready() == "200 ok\n"
            running.stop("SIGTERM")
            assert await ready() == "503 it is leaving\n"


async def test_leaving_is_told(work: Any) -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        worker.send(Drain(reason="update"))
        await orchestrator.until(lambda: len(worker.events("worker.drain.status")) == 2)
        states = [said(event)["status"] for event in worker.events("worker.drain.status")]
        assert states == ["draining", "drained"]
        assert problems(worker) == []
