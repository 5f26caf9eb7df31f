"""A worker leaves: drained, stopped by a signal, or alone for too long; it owes nobody a result."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import RequestContext, inference, inference_function
from gen_worker.runtime.wire import Drain, DrainResult, InterruptJob, StartupPhase
from gen_worker.runtime.worker.leaving import LeavingTimes
from gen_worker.testing import VirtualClock
from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from conftest import Work


class Text(msgspec.Struct):
    text: str = ""


@inference_function
async def hold(ctx: RequestContext, payload: Text) -> Text:
    ctx.emit("holding", {})
    await asyncio.Event().wait()
    return payload


@inference_function
async def work_on(ctx: RequestContext, payload: Text) -> Text:
    ctx.emit("holding", {})
    await Stage.go.wait()
    return Text(text="done")


class Stage:
    shutdowns = 0
    go: asyncio.Event


@inference
class Kept:
    def setup(self) -> None:
        Stage.shutdowns = 0

    @inference.function
    def greet(self, ctx: RequestContext, payload: Text) -> Text:
        return Text(text="hello")

    def shutdown(self) -> None:
        Stage.shutdowns += 1


ALL = (hold, work_on, Kept)


@pytest.fixture(autouse=True)
def _stage() -> None:
    Stage.go = asyncio.Event()


def statuses(worker: Any) -> list[tuple[str, int]]:
    return [(one.status, one.active_requests) for one in worker.heard(DrainResult)]


async def test_a_drained_worker_finishes_answers_and_ends(work: "Work") -> None:
    clock = VirtualClock()
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, clock=clock) as running:
        worker = await orchestrator.connected()
        await worker.submit("greet").result()
        job = worker.submit("work-on")
        await orchestrator.until(lambda: job.events)
        deadline_ms = int((clock.time() + 60) * 1000)
        worker.send(Drain(reason="scale_down", deadline_unix_ms=deadline_ms))
        await orchestrator.until(lambda: statuses(worker) == [("draining", 1)])
        refused = await worker.submit("greet").result()
        assert (refused.error_type, refused.retryable) == ("retryable", True)
        assert refused.safe_message == "worker busy"
        Stage.go.set()
        assert (await job.output()) == {"text": "done"}
        # Of streams that end at the same time each is heard to its own end.
        await orchestrator.until(lambda: not any(worker.streams.values()))
        assert statuses(worker) == [("draining", 1), ("drained", 0)]
        assert worker.heard(DrainResult)[1].reason == "scale_down"
        events = [
            msgspec.json.decode(one.payload_json) for one in worker.events("worker.drain.status")
        ]
        assert [one["status"] for one in events] == ["draining", "drained"]
        assert Stage.shutdowns == 1
        assert running.leaving.has_begun


async def test_the_drain_deadline_cancels_what_is_left_if_it_is_to_end(work: "Work") -> None:
    clock = VirtualClock()
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, clock=clock):
        worker = await orchestrator.connected()
        job = worker.submit("hold")
        await orchestrator.until(lambda: job.events)
        deadline_ms = int((clock.time() + 20) * 1000)
        worker.send(Drain(deadline_unix_ms=deadline_ms, terminate_after_deadline=True))
        await orchestrator.until(lambda: statuses(worker))
        clock.advance(21)
        result = await job.result()
        # Its caller did not want it to end: it may run elsewhere.
        assert (result.error_type, result.retryable) == ("retryable", True)
        await orchestrator.until(lambda: not worker.is_connected)
        assert [status for status, _ in statuses(worker)] == ["draining", "deadline_exceeded"]


async def test_after_the_deadline_a_worker_may_still_finish(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        job = worker.submit("work-on")
        await orchestrator.until(lambda: job.events)
        worker.send(Drain())  # no deadline, and none configured: no wait
        await orchestrator.until(lambda: len(statuses(worker)) == 2)
        assert statuses(worker) == [("draining", 1), ("deadline_exceeded", 1)]
        Stage.go.set()
        assert (await job.output()) == {"text": "done"}
        await orchestrator.until(lambda: not worker.is_connected)
        assert statuses(worker)[2] == ("drained", 0)


async def test_a_second_drain_may_hurry_the_first(work: "Work") -> None:
    clock = VirtualClock()
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, clock=clock):
        worker = await orchestrator.connected()
        job = worker.submit("hold")
        await orchestrator.until(lambda: job.events)
        worker.send(Drain(deadline_unix_ms=int((clock.time() + 600) * 1000)))
        await orchestrator.until(lambda: statuses(worker))
        worker.send(Drain(terminate_after_deadline=True, deadline_unix_ms=1))
        await job.result()
        await orchestrator.until(lambda: not worker.is_connected)


async def test_a_draining_worker_that_connects_anew_is_not_ready(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()

        def phases() -> list[str]:
            return [one.phase for one in worker.heard(StartupPhase)]

        await orchestrator.until(lambda: "ready" in phases())
        job = worker.submit("work-on")
        await orchestrator.until(lambda: job.events)
        worker.send(Drain(deadline_unix_ms=int((time.time() + 600) * 1000)))
        await orchestrator.until(lambda: statuses(worker))
        orchestrator.cut()
        await orchestrator.until(lambda: len(worker.registrations) == 2)
        Stage.go.set()
        assert (await job.output()) == {"text": "done"}
        await orchestrator.until(lambda: not any(worker.streams.values()))
        assert phases().count("models_downloading") == 2
        assert phases().count("ready") == 1


async def test_a_draining_worker_still_takes_interrupts(work: "Work") -> None:
    clock = VirtualClock()
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, clock=clock):
        worker = await orchestrator.connected()
        job = worker.submit("hold")
        await orchestrator.until(lambda: job.events)
        worker.send(Drain(deadline_unix_ms=int((clock.time() + 600) * 1000)))
        worker.send(InterruptJob(request_id=job.request.request_id))
        assert (await job.result()).error_type == "canceled"
        await orchestrator.until(lambda: not worker.is_connected)
        assert statuses(worker)[-1] == ("drained", 0)


async def test_a_stop_waits_for_jobs_as_long_as_it_may(work: "Work") -> None:
    clock, times = VirtualClock(), LeavingTimes(drain_s=30.0)
    async with (
        Orchestrator() as orchestrator,
        work(orchestrator, *ALL, clock=clock, times=times) as running,
    ):
        worker = await orchestrator.connected()
        job, other = worker.submit("work-on"), worker.submit("hold")
        await orchestrator.until(lambda: job.events and other.events)
        running.stop("sigterm")
        event = (await orchestrator.until(lambda: worker.events("worker.draining")))[0]
        told = msgspec.json.decode(event.payload_json)
        assert told["reason"] == "sigterm"
        assert set(told["in_flight_request_ids"]) == {
            job.request.request_id,
            other.request.request_id,
        }
        Stage.go.set()
        assert (await job.output()) == {"text": "done"}
        assert not other.results
        clock.advance(31)
        assert (await other.result()).error_type == "retryable"
        await orchestrator.until(lambda: not worker.is_connected)


PROGRAM = """
import sys
import msgspec
from gen_worker import RequestContext, inference, inference_function
from gen_worker.runtime.worker.settings import WorkerSettings
from gen_worker.runtime.worker.process import run_worker
from gen_worker.settings import load
from gen_worker.spec import specs_of

class Text(msgspec.Struct):
    text: str = ""

@inference_function
def block(ctx: RequestContext, payload: Text) -> Text:
    ctx.emit("holding", {})
    ctx.cancel_token.wait(60)
    return payload

@inference
class Kept:
    def setup(self) -> None:
        pass
    @inference.function
    def greet(self, ctx: RequestContext, payload: Text) -> Text:
        return Text(text="hello")
    def shutdown(self) -> None:
        print("shut down", flush=True)

specs = [*specs_of(block), *specs_of(Kept)]
sys.exit(run_worker(load(WorkerSettings), specs))
"""


@pytest.mark.claims("PUBLIC_ORCHESTRATOR_GRPC_ADDR", "WORKER_JWT", "WORKER_ID")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_process_in_order(tmp_path: Path, number: signal.Signals) -> None:
    async with Orchestrator() as orchestrator:
        environ = {
            **os.environ,
            "PUBLIC_ORCHESTRATOR_GRPC_ADDR": orchestrator.address,
            "WORKER_JWT": "dev-worker-jwt",
            "WORKER_ID": "w1",
            "TENSORHUB_CAS_DIR": str(tmp_path),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            env=environ,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            worker = await orchestrator.connected(timeout_s=60)
            assert worker.worker_id == "w1"
            assert worker.metadata["authorization"] == "Bearer dev-worker-jwt"
            await worker.submit("greet").result()
            job = worker.submit("block")
            await orchestrator.until(lambda: job.events)
            process.send_signal(number)
            result = await job.result()
            assert (result.error_type, result.retryable) == ("retryable", True)
            event = (await orchestrator.until(lambda: worker.events("worker.draining")))[0]
            assert msgspec.json.decode(event.payload_json)["reason"] == number.name.lower()
            out, err = await asyncio.wait_for(process.communicate(), 60)
            assert (process.returncode, out) == (0, b"shut down\n"), err
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


async def test_without_a_token_nothing_is_dialed(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "PUBLIC_ORCHESTRATOR_GRPC_ADDR": "127.0.0.1:1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, env=environ, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert b"WORKER_JWT" in err
