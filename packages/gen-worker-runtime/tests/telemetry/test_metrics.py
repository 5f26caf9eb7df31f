"""Prometheus sees calls, queues, streams and the connection; nobody else pays for it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.errors import FatalError
from gen_worker.runtime.telemetry import Metrics, WorkerFigures
from gen_worker.runtime.worker.outbox import OutboxStatistics


class Text(msgspec.Struct):
    text: str = ""


@inference_function
async def echo(ctx: RequestContext, payload: Text) -> Text:
    return payload


@inference_function
async def broken(ctx: RequestContext, payload: Text) -> Text:
    raise FatalError("no")


@inference_function
async def count(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
    for _ in range(3):
        yield payload


def samples(metrics: Metrics) -> dict[str, float]:
    """Return every sample under its name and labels."""
    lines = metrics.exposition().decode().splitlines()
    rows = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


async def test_calls_are_counted_by_function_and_outcome(watched: Any) -> None:
    async with watched(echo, broken, count) as room:
        await room.run("echo", request_id="a")
        await room.run("echo", request_id="b")
        await room.run("broken", request_id="c")
        await room.run("count", request_id="d")
        found = samples(room.telemetry.metrics)
    assert found['gen_worker_requests_total{function="echo",outcome="succeeded"}'] == 2
    assert found['gen_worker_requests_total{function="broken",outcome="fatal"}'] == 1
    assert found['gen_worker_deltas_total{function="count"}'] == 3
    assert found['gen_worker_compute_seconds_count{function="echo"}'] == 2
    assert found['gen_worker_queue_seconds_bucket{function="echo",le="+Inf"}'] == 2
    assert 0 < found['gen_worker_compute_seconds_sum{function="echo"}'] < 10


async def test_any_host_may_count_its_calls(watched: Any) -> None:
    async with watched(echo) as room:
        metrics = Metrics(room.engine.statistics)
        metrics.count("echo", await room.run("echo"))
        metrics.count_refused("echo", "worker_draining")
        found = samples(metrics)
    assert found['gen_worker_requests_total{function="echo",outcome="succeeded"}'] == 1
    name = 'gen_worker_requests_total{function="echo",outcome="refused_worker_draining"}'
    assert found[name] == 1
    assert found["gen_worker_running"] == 0
    assert found["gen_worker_queued"] == 0


async def test_running_calls_and_cancels_are_seen(watched: Any) -> None:
    @inference_function
    async def hold(ctx: RequestContext, payload: Text) -> Text:
        await asyncio.Event().wait()
        return payload

    async with watched(hold) as room:
        metrics = Metrics(room.engine.statistics)
        job = room.submit("hold")
        async with asyncio.timeout(60):
            while not samples(metrics)["gen_worker_running"]:
                await asyncio.sleep(0)
        job.call.token.cancel("caller")
        await job.outcome()
        found = samples(metrics)
    assert found["gen_worker_running"] == 0
    assert found["gen_worker_canceled_total"] == 1
    assert found["gen_worker_cancel_latency_p50_seconds"] > 0


def test_what_only_a_worker_has() -> None:
    figures = WorkerFigures(
        outbox=OutboxStatistics(
            control=1, results=2, deltas=3, telemetry=4, in_doubt=5, shed=6, replaced=7, dropped=8
        ),
        connections=7,
        is_connected=True,
        models={"vram": ("a", "b"), "disk": ()},
        model_bytes={("cuda:0", "used"): 10, ("cuda:0", "limit"): 100},
    )
    found = samples(Metrics(worker=lambda: figures))
    assert found['gen_worker_outbox{kind="results"}'] == 2
    assert found["gen_worker_shed_events_total"] == 6
    assert found["gen_worker_replaced_signals_total"] == 7
    assert found["gen_worker_dropped_signals_total"] == 8
    assert found["gen_worker_connections_total"] == 7
    assert found["gen_worker_connected"] == 1
    assert found['gen_worker_models{tier="vram"}'] == 2
    assert found['gen_worker_models{tier="disk"}'] == 0
    assert found['gen_worker_model_bytes{device="cuda:0",what="limit"}'] == 100


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0005, "0.001"), (0.001, "0.001"), (0.3, "0.5"), (400, "+Inf")]
)
def test_a_time_is_in_its_bucket_and_all_above(seconds: float, bucket: str) -> None:
    from gen_worker.events import Timings

    metrics = Metrics()
    metrics.count_timings("f", "succeeded", Timings(compute_ms=seconds * 1000))
    found = samples(metrics)
    buckets = [
        name.partition('le="')[2].rstrip('"}')
        for name, value in found.items()
        if name.startswith("gen_worker_compute_seconds_bucket") and value
    ]
    assert buckets[0] == bucket
    assert buckets[-1] == "+Inf"


def test_the_library_is_imported_by_whoever_reads_the_figures() -> None:
    code = """
import sys
from gen_worker.events import Timings
from gen_worker.runtime.telemetry import Metrics, Telemetry
metrics = Metrics()
metrics.count_timings("f", "succeeded", Timings())
late = ("prometheus_client", "opentelemetry", "uvicorn", "httpx", "psutil", "numpy", "PIL")
assert not set(late) & set(sys.modules), set(late) & set(sys.modules)
assert b"gen_worker_requests_total" in metrics.exposition()
assert "prometheus_client" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
