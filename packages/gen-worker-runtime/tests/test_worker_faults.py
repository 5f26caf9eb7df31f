"""A whole worker between faults: every accepted request ends exactly once, and nothing is lost."""

import asyncio
import gc
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.runtime import Alarm, EngineLimits
from gen_worker.runtime.engine import SYSTEM_CLOCK
from gen_worker.runtime.engine.deadlines import Timer
from gen_worker.runtime.wire import (
    Drain,
    DrainResult,
    InterruptJob,
    JobRequest,
    JobResult,
    Registration,
    StreamDone,
    TokenDelta,
    WorkerEvent,
)
from gen_worker.runtime.worker.leaving import LeavingTimes
from gen_worker.runtime.worker.outbox import OutboxLimits, Outgoing
from gen_worker.runtime.worker.worker import Worker, WorkerOptions
from gen_worker.testing import VirtualClock
from gen_worker.testing.cable import Cable
from gen_worker.testing.faults import StreamFaults, random_faults
from gen_worker.testing.orchestrator import Job, Orchestrator, WorkerSession
from gen_worker.testing.workers import quick_policy, working

if TYPE_CHECKING:
    from conftest import Work


class Text(msgspec.Struct):
    text: str = ""
    count: int = 0


@inference_function
async def echo(ctx: RequestContext, payload: Text) -> Text:
    return payload


@inference_function
def echo_in_thread(ctx: RequestContext, payload: Text) -> Text:
    ctx.log("hello")
    return payload


@inference_function
def count(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for number in range(payload.count):
        yield Text(text=f"{payload.text}{number} ")


@inference_function
async def count_async(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
    for number in range(payload.count):
        yield Text(text=f"{payload.text}{number} ")


@inference_function
def fail(ctx: RequestContext, payload: Text) -> Text:
    raise ValueError(payload.text)


@inference_function
async def hold(ctx: RequestContext, payload: Text) -> Text:
    await asyncio.Event().wait()
    return payload


@inference_function
def block(ctx: RequestContext, payload: Text) -> Text:
    ctx.cancel_token.wait()
    ctx.raise_if_canceled()
    return payload


@inference_function
def drip(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    yield Text(text="drop")
    ctx.cancel_token.wait()
    ctx.raise_if_canceled()


GATE = threading.Event()
"""What `gated` waits for; set unless a test clears it."""
GATE.set()


@inference_function
def gated(ctx: RequestContext, payload: Text) -> Text:
    GATE.wait(60)
    return payload


@inference_function
async def lengthen(ctx: RequestContext, payload: Text) -> Text:
    return Text(text="x" * payload.count)


FUNCTIONS = [echo, echo_in_thread, count, count_async, fail, hold, block, drip, gated, lengthen]


class Scene(NamedTuple):
    orchestrator: Orchestrator
    session: WorkerSession
    worker: Worker
    cable: Cable
    """What the worker is connected over."""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is left of any job: no call, no slot, nothing to write."""
        engine = self.worker.engine.statistics()
        return (
            not self.worker.jobs.active
            and (engine.running, engine.queued, engine.stuck_threads) == (0, 0, 0)
            and self.worker.link.outbox.is_empty
        )


@asynccontextmanager
async def scene(
    faults: StreamFaults | None = None, policy: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Scene]:
    """Have a worker connected.

    Args:
        faults: What goes wrong.
        policy: Fields of its `LinkPolicy`.
        **options: Of `working`.
    """
    async with Orchestrator(faults=faults) as orchestrator, Cable(orchestrator.address) as cable:
        own = msgspec.structs.replace(quick_policy(cable.address), **(policy or {}))
        async with working(FUNCTIONS, cable.address, policy=own, **options) as worker:
            yield Scene(orchestrator, await orchestrator.connected(), worker, cable)
            if faults is not None:
                await faults.settle()


def counted(text: str, number: int) -> str:
    """Return what `count` says in all."""
    return "".join(f"{text}{index} " for index in range(number))


def check_ended_once(job: Job) -> None:
    """Check that a client sees one end of its request, and one text."""
    assert job.is_finished
    first = job.results[0]
    for other in job.results[1:]:
        same = msgspec.structs.replace(other, observation=first.observation)
        assert same == first
    assert job.contradictions == []


OPTIONS = WorkerOptions(token="a-token", worker_id="worker-1", heartbeat_s=0.05)
UNMERGED = OutboxLimits(merges_text=False)
LARGE = "x" * 300_000


# ---- the orchestrator's end dies, at any point of a streamed job


@pytest.mark.parametrize("message", [JobRequest, TokenDelta, StreamDone, JobResult, Registration])
@pytest.mark.parametrize("kind", ["restart", "drop_before", "drop_after", "end_stream"])
async def test_a_stream_outlives_every_end_of_its_connection(kind: str, message: type) -> None:
    faults = StreamFaults()
    act: dict[str, Callable[[], None]] = {
        "restart": lambda: faults.restart(message),
        "drop_before": lambda: faults.drop(message),
        "drop_after": lambda: faults.drop(message, after=True),
        "end_stream": lambda: faults.end_stream(message),
    }
    act[kind]()
    async with scene(faults, outbox_limits=UNMERGED) as here:
        job = here.session.submit("count", {"count": 50, "text": "n"})
        await job.output()
        assert job.text == counted("n", 50)
        check_ended_once(job)
        assert len(faults.happened) == 1


@pytest.mark.parametrize("at_bytes", [1, 5_000, 100_000, 299_000])
@pytest.mark.parametrize("direction", ["request", "result"])
async def test_a_network_that_breaks_within_a_message(direction: str, at_bytes: int) -> None:
    faults = StreamFaults()
    async with scene(faults) as here:
        if direction == "request":
            here.cable.cut_after(at_bytes)
        else:
            faults.call(JobRequest, lambda: here.cable.cut_after(at_bytes))
        job = here.session.submit("echo", {"text": LARGE})
        assert (await job.output())["text"] == LARGE
        check_ended_once(job)
        assert here.cable.connections > 1


@pytest.mark.parametrize("at_bytes", [1_000_000, 11_900_000])
async def test_a_network_that_breaks_within_a_long_result(at_bytes: int) -> None:
    faults = StreamFaults()
    async with scene(faults) as here:
        faults.call(JobRequest, lambda: here.cable.cut_after(at_bytes))
        job = here.session.submit("lengthen", {"count": 12_000_000})
        assert len((await job.output(timeout_s=60))["text"]) == 12_000_000
        check_ended_once(job)
        assert job.attempts == 1
        assert here.cable.connections > 1


# ---- twice, late, out of order, or stuck


async def test_a_job_that_is_given_twice_runs_once() -> None:
    GATE.clear()
    faults = StreamFaults()
    faults.duplicate(JobRequest)
    async with scene(faults) as here:
        job = here.session.submit("gated", {"text": "once"})
        last = here.session.submit("echo")
        await last.result()  # on the same stream: the copy has been heard by now
        GATE.set()
        assert (await job.output())["text"] == "once"
        assert len(job.results) == 1
        assert here.worker.engine.statistics().completed == 2


async def test_a_result_may_overtake_its_stream() -> None:
    faults = StreamFaults()
    deltas = faults.hold(TokenDelta)
    async with scene(faults) as here:
        await here.orchestrator.until(lambda: len(here.session.streams) == 3)
        job = here.session.submit("count", {"count": 20})
        await here.orchestrator.until(lambda: bool(job.results))
        assert not job.is_finished
        deltas.release()
        await job.result()
        assert job.text == counted("", 20)
        check_ended_once(job)


async def test_a_stalled_stream_does_not_hold_up_the_others() -> None:
    faults = StreamFaults()
    events = faults.hold(TokenDelta)
    async with scene(faults) as here:
        await here.orchestrator.until(lambda: len(here.session.streams) == 3)
        stalled = here.session.submit("count", {"count": 20_000, "text": "stalled"})
        await events.has_begun.wait()
        for _ in range(20):
            await here.session.submit("echo").result()
        here.orchestrator.drop(here.session)  # and what it had taken is not lost with it
        events.release()
        await stalled.result()
        assert stalled.text == counted("stalled", 20_000)
        check_ended_once(stalled)


async def test_results_that_nobody_reads_hold_up_no_stream_and_are_not_lost() -> None:
    faults = StreamFaults()
    results = faults.hold(JobResult)
    async with scene(faults) as here:
        await here.orchestrator.until(lambda: len(here.session.streams) == 3)
        jobs = [here.session.submit("echo", {"text": f"{number}"}) for number in range(50)]
        await results.has_begun.wait()
        streamed = here.session.submit("count", {"count": 500, "text": "s"})
        await here.orchestrator.until(lambda: streamed.end is not None, timeout_s=60)
        assert not any(job.results for job in [*jobs, streamed])
        here.orchestrator.drop(here.session)
        results.release()
        for number, job in enumerate(jobs):
            assert (await job.output(timeout_s=60))["text"] == f"{number}"
        await streamed.result(timeout_s=60)
        assert streamed.text == counted("s", 500)
        assert {job.attempts for job in [*jobs, streamed]} == {1}


async def test_commands_that_do_not_come_through_hold_up_no_results() -> None:
    faults = StreamFaults()
    commands = faults.hold(JobRequest, 2)
    GATE.clear()
    async with scene(faults) as here:
        running = here.session.submit("gated", {"text": "first"})
        waiting = here.session.submit("echo", {"text": "second"})
        await commands.has_begun.wait()
        GATE.set()
        assert (await running.output(timeout_s=60))["text"] == "first"
        assert waiting.results == []
        commands.release()
        assert (await waiting.output(timeout_s=60))["text"] == "second"


async def test_a_network_that_falls_silent_is_left() -> None:
    async with scene(policy={"silence_timeout_s": 0.3}, options=OPTIONS) as here:
        job = here.session.submit("gated", {"text": "still here"})
        here.cable.stall()
        assert (await job.output())["text"] == "still here"
        check_ended_once(job)
        assert here.cable.connections > 1


async def test_a_slow_reader_slows_the_handler_and_loses_nothing() -> None:
    faults = StreamFaults()
    faults.delay(TokenDelta, seconds=0.0003)
    limits = OutboxLimits(max_output_bytes=4096, merges_text=False)
    async with scene(faults, outbox_limits=limits) as here:
        job = here.session.submit("count_async", {"count": 1500, "text": "slow "})
        most = 0

        def look() -> bool:
            nonlocal most
            most = max(most, here.worker.link.outbox.statistics().deltas)
            return job.is_finished

        await here.orchestrator.until(look)
        assert job.text == counted("slow ", 1500)
        check_ended_once(job)
        assert most < 500  # what the engine hands over at once, and a little


async def test_full_queues_refuse_what_they_cannot_take() -> None:
    GATE.clear()
    options = msgspec.structs.replace(OPTIONS, limits=EngineLimits(max_queue=5, max_threads=2))
    async with scene(options=options) as here:
        jobs = [here.session.submit("gated", {"count": number}) for number in range(40)]
        await here.orchestrator.until(lambda: sum(job.is_finished for job in jobs) >= 30)
        GATE.set()
        results = [await job.result() for job in jobs]
        refused = [result for result in results if not result.success]
        assert {(one.error_type, one.retryable) for one in refused} == {("worker_overloaded", True)}
        assert 2 <= len(results) - len(refused) <= 10
        for job in jobs:
            check_ended_once(job)
        await here.orchestrator.until(lambda: here.is_quiet)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_result_whose_connection_breaks_while_the_worker_leaves(after: bool) -> None:
    GATE.clear()
    faults = StreamFaults()
    faults.drop(JobResult, 2, after=after)
    times = LeavingTimes(drain_s=60.0, flush_s=60.0)
    options = msgspec.structs.replace(OPTIONS, times=times)
    async with scene(faults, options=options) as here:
        job = here.session.submit("gated", {"text": "the last one"})
        await here.session.submit("echo").result(timeout_s=60)
        here.worker.stop("the machine goes")
        GATE.set()
        assert (await job.output(timeout_s=60))["text"] == "the last one"
        assert job.attempts == 1
        assert len(faults.happened) == 1


# ---- tokens, clocks, cancellation


async def test_a_token_that_is_rotated_during_a_job() -> None:
    GATE.clear()
    async with scene(options=OPTIONS) as here:
        job = here.session.submit("gated", {"text": "kept"})
        rotate = {"worker_jwt": "a-newer-token"}
        here.session.send(
            WorkerEvent(event_type="worker.jwt.rotate", payload_json=msgspec.json.encode(rotate))  # type: ignore[arg-type]  # the one event that goes the other way
        )
        await here.session.submit("echo").result()
        here.orchestrator.drop(here.session)
        await here.orchestrator.until(
            lambda: here.session.metadata["authorization"] == "Bearer a-newer-token"
        )
        GATE.set()
        assert (await job.output())["text"] == "kept"
        assert job.attempts == 1


async def test_a_token_that_expires_during_a_job_costs_no_job(work: "Work") -> None:
    GATE.clear()
    kept = ["an-old-token"]
    async with (
        Orchestrator() as orchestrator,
        work(orchestrator, *FUNCTIONS, token=kept[0], read_token=lambda: kept[0]) as worker,
    ):
        session = await orchestrator.connected()
        job = session.submit("gated", {"text": "kept"})
        await session.submit("echo").result(timeout_s=60)
        orchestrator.refusal = (grpc.StatusCode.UNAUTHENTICATED, "the token has expired")
        orchestrator.drop(session)
        async with asyncio.timeout(60):
            while worker.link.state.failures < 3:
                await asyncio.sleep(0.01)
        GATE.set()
        kept[0] = "a-newer-token"
        orchestrator.refusal = None
        assert (await job.output(timeout_s=60))["text"] == "kept"
        assert job.attempts == 1
        assert session.metadata["authorization"] == "Bearer a-newer-token"


async def test_hours_that_pass_at_once_break_connections_and_no_jobs() -> None:
    GATE.clear()
    clock = VirtualClock()
    async with scene(clock=clock) as here:
        job = here.session.submit("gated", {"text": "patient"})
        late = here.session.submit("hold", timeout_ms=60_000)
        await here.session.submit("echo").result()
        clock.advance(3600)
        await _advancing(clock, late.result())
        clock.advance(3600)
        GATE.set()
        await _advancing(clock, job.result())
        assert (late.results[0].error_type, late.results[0].success) == ("canceled", False)
        assert job.results[0].success


class JumpingClock:
    """The system's clock, whose time of day somebody sets."""

    offset_s = 0.0

    def now(self) -> float:
        return SYSTEM_CLOCK.now()

    def time(self) -> float:
        return SYSTEM_CLOCK.time() + self.offset_s

    def alarm(self, ring: Callable[[], float | None]) -> Alarm:
        return SYSTEM_CLOCK.alarm(ring)


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
async def test_a_clock_that_is_set_changes_no_deadline(jump_s: float) -> None:
    clock = JumpingClock()
    GATE.clear()
    async with scene(clock=clock, options=OPTIONS) as here:
        job = here.session.submit("gated", timeout_ms=60_000)
        await here.session.submit("echo").result()
        clock.offset_s = jump_s
        await here.session.submit("echo").result()
        GATE.set()
        assert (await job.result()).success


async def test_nothing_but_time_stamps_heeds_the_time_of_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, real = JumpingClock(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + clock.offset_s)
    async with scene(clock=clock, options=OPTIONS) as here:
        await here.orchestrator.until(lambda: len(here.session.streams) == 3)
        connections = here.cable.connections
        choice = random.Random(1)
        for jump_s in (86_400.0, -86_400.0, 1e9, -1e9, 0.0):
            jobs = submit_some(here, choice, 20)
            clock.offset_s = jump_s
            patient = here.session.submit("echo", timeout_ms=600_000)
            await check_jobs(here, jobs)
            assert (await patient.result(timeout_s=60)).success
        assert here.cable.connections == connections


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
async def test_a_drain_s_deadline_is_not_moved_by_a_clock_that_is_set(jump_s: float) -> None:
    clock = JumpingClock()
    GATE.clear()
    async with scene(clock=clock, options=OPTIONS) as here:
        job = here.session.submit("gated", {"text": "finished"})
        await here.session.submit("echo").result(timeout_s=60)
        deadline_unix_ms = int((clock.time() + 3600) * 1000)
        here.session.send(Drain(deadline_unix_ms=deadline_unix_ms, terminate_after_deadline=True))
        await here.orchestrator.until(lambda: bool(here.session.heard(DrainResult)), timeout_s=60)
        clock.offset_s = jump_s
        late = here.session.submit("echo")
        assert (await late.result(timeout_s=60)).error_type == "retryable"
        GATE.set()
        assert (await job.output(timeout_s=60))["text"] == "finished"


@pytest.mark.parametrize("function", ["hold", "block", "drip"])
@pytest.mark.parametrize("cause", ["interrupt", "deadline", "interrupt after a drop"])
async def test_however_a_handler_is_stopped_nothing_of_it_stays(function: str, cause: str) -> None:
    timeout_ms = 100 if cause == "deadline" else 0
    async with scene(options=OPTIONS) as here:
        job = here.session.submit(function, timeout_ms=timeout_ms)
        await here.session.submit("echo").result()
        if cause == "interrupt after a drop":
            here.orchestrator.drop(here.session)
        if cause != "deadline":
            here.session.send(InterruptJob(request_id=job.request.request_id))
        result = await job.result()
        assert (result.success, result.error_type) == (False, "canceled")
        check_ended_once(job)
        await here.orchestrator.until(lambda: here.is_quiet)


# ---- many jobs, random faults


FAILS, ENDS = object(), object()
"""What is right for jobs that fail, and for those that their deadline ends."""
KINDS = ["echo", "echo-in-thread", "count", "count-async", "fail", "large", "hold", "block", "drip"]


def submit_some(here: Scene, choice: random.Random, number: int) -> list[tuple[Job, Any]]:
    """Send jobs; return each with the output or the text that is right, if there is one."""
    jobs: list[tuple[Job, Any]] = []
    for index in range(number):
        text = f"{index}-"
        match choice.choice(KINDS):
            case "large":
                payload = {"text": "y" * choice.randint(1, 100_000)}
                jobs.append((here.session.submit("echo", payload), payload["text"]))
            case "fail":
                jobs.append((here.session.submit("fail", {"text": text}), FAILS))
            case "hold" | "block" | "drip" as function:
                job = here.session.submit(function, timeout_ms=choice.randint(1, 50))
                jobs.append((job, ENDS))
            case "count" | "count-async" as function:
                count = choice.randint(0, 100)
                job = here.session.submit(function, {"text": text, "count": count})
                jobs.append((job, counted(text, count)))
            case function:
                jobs.append((here.session.submit(function, {"text": text}), text))
    return jobs


async def check_jobs(here: Scene, jobs: list[tuple[Job, Any]]) -> None:
    for job, right in jobs:
        await job.result(timeout_s=60)
        check_job(job, right)
    await here.orchestrator.until(lambda: here.is_quiet, timeout_s=60)


def check_job(job: Job, right: Any) -> None:
    """Check that a job that is finished has ended once, and as is right for it."""
    check_ended_once(job)
    result = job.results[0]
    if right is FAILS:
        assert result.error_type == "validation"
    elif right is ENDS:
        assert (result.error_type, result.success) == ("canceled", False)
    elif job.request.function.startswith("count"):
        assert (result.success, job.text) == (True, right)
    else:
        assert msgspec.msgpack.decode(result.payload)["text"] == right


@pytest.mark.chaos
async def test_random_faults(seed: int) -> None:
    plan = random_faults(seed, count=12, messages=60)
    print(f"seed {seed}: {plan}")
    limits = OutboxLimits(merges_text=seed % 2 == 1)
    options = msgspec.structs.replace(OPTIONS, splits=seed % 3 != 2)
    async with scene(StreamFaults(plan), outbox_limits=limits, options=options) as here:
        await check_jobs(here, submit_some(here, random.Random(seed), 100))


@pytest.mark.chaos
@pytest.mark.parametrize("splits", [True, False], ids=["three", "one"])
async def test_random_breaks_of_the_network(seed: int, splits: bool) -> None:
    choice = random.Random(seed)
    faults = StreamFaults()
    options = msgspec.structs.replace(OPTIONS, splits=splits)
    async with scene(faults, options=options) as here:
        for nth in choice.sample(range(1, 60), 6):
            faults.call(JobResult, partial(here.cable.cut_after, choice.randint(0, 50_000)), nth)
        await check_jobs(here, submit_some(here, choice, 80))


@pytest.mark.chaos
async def test_a_worker_that_leaves_between_faults_owes_nothing(seed: int) -> None:
    choice = random.Random(seed)
    times = LeavingTimes(drain_s=60.0, flush_s=60.0)
    options = msgspec.structs.replace(OPTIONS, times=times)
    plan = random_faults(seed, count=8, messages=50)
    # Whoever ends a stream without having read it says that nothing is missing: nobody can know.
    faults = StreamFaults(fault for fault in plan if fault.kind != "end_stream")
    async with scene(faults, outbox_limits=UNMERGED, options=options) as here:
        jobs = submit_some(here, choice, 50)
        enough = choice.randint(0, 40)
        await here.orchestrator.until(
            lambda: sum(job.is_finished for job, _ in jobs) >= enough, timeout_s=60
        )
        here.worker.stop("the machine goes")
        async with asyncio.timeout(60):
            while here.worker.link.state.phase != "finished":
                await asyncio.sleep(0.01)
        assert here.worker.link.outbox.unsent_request_ids() == ()
        await here.orchestrator.until(lambda: not any(here.session.streams.values()), timeout_s=60)
        for job, right in jobs:
            if job.request.request_id in here.session.assigned:
                assert not job.results  # to be given to another worker
            elif job.results[0].error_type == "retryable":
                check_ended_once(job)  # it came when the worker was about to go
            else:
                check_job(job, right)


@pytest.mark.chaos
async def test_many_jobs_leave_nothing_behind(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """With `--seeds 100` ten thousand of them, in one life of a worker."""
    caplog.set_level(logging.CRITICAL)  # a kept line keeps the frames of the handler that failed
    faults = StreamFaults()
    options = msgspec.structs.replace(OPTIONS, limits=EngineLimits(max_threads=2))
    levels: list[Counter[str]] = []
    memory_mib: list[float] = []
    async with scene(faults, outbox_limits=UNMERGED, options=options) as here:
        for number in range(2 * request.config.getoption("seeds")):
            for fault in random_faults(number, count=3, messages=50):
                faults.add(fault)
            await check_jobs(here, submit_some(here, random.Random(number), 50))
            await faults.settle()
            faults.reset()
            for role in ("results", "events"):  # or all of it would be sent after every break
                here.worker.link.outbox.arrived(role)
            # Compare like with like: a connection that has just been made, with all its streams.
            here.session.registrations.clear()
            here.orchestrator.drop(here.session)
            await here.orchestrator.until(partial(is_fresh, here), timeout_s=60)
            here.orchestrator.forget()
            levels.append(living())
            memory_mib.append(resident_mib())
    print(f"memory in MiB: {memory_mib}")
    # What jobs leak is more after each round. All else comes and goes.
    grown = {kind: by for kind in levels[-1] if is_growing(by := [one[kind] for one in levels])}
    assert grown == {}
    if (few := len(levels) // 10) >= 4:
        assert median(memory_mib[-few:]) - median(memory_mib[few : 2 * few]) < 16


def resident_mib() -> float:
    """Return the memory of this process; 0 where nobody says."""
    facts = Path("/proc/self/statm")
    pages = int(facts.read_text().split()[1]) if facts.exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def is_fresh(here: Scene) -> bool:
    """Tell whether the worker has connected anew, with three streams, and has nothing to say."""
    streams = [*here.session.streams.values()]
    return bool(here.session.registrations) and streams == [1, 1, 1] and here.is_quiet


def is_growing(levels: list[int]) -> bool:
    """Tell whether there is more after every round, or after many rounds in the middle of them."""
    few = len(levels) // 10
    rise = median(levels[-few:]) - median(levels[:few]) if few else 0
    return levels == sorted(set(levels)) or (few >= 4 and rise > len(levels) / 4)


def living() -> Counter[str]:
    """Count tasks, calls, streams and all else that is alive, by kind.

    Messages that wait to be believed and timers that were canceled leave in their own time.
    """
    gc.collect()
    homes = ("gen_worker", "grpc", "asyncio", "_asyncio", "uvloop", "builtins")
    names = {"coroutine", "generator", "async_generator", "frame", "traceback"}
    kinds = (
        type(one)
        for one in gc.get_objects()
        if not (isinstance(one, Outgoing) or (isinstance(one, Timer) and one.callback is None))
    )
    counted = Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if isinstance(kind.__module__, str)
        and kind.__module__.partition(".")[0] in homes
        and (kind.__module__ != "builtins" or kind.__name__ in names)
    )
    counted["threads"] = threading.active_count()
    counted["files"] = len(os.listdir("/dev/fd"))
    return counted


async def _advancing(clock: VirtualClock, waiting: Any) -> Any:
    """Await something while virtual time goes on, in which connections are opened again."""
    task = asyncio.ensure_future(waiting)
    while not task.done():
        clock.advance(0.05)
        await asyncio.wait([task], timeout=0.01)
    return await task
