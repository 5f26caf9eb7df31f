"""Jobs of a whole worker: real gRPC, a real engine, and an orchestrator that checks the answers."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import RequestContext, Resources, inference, inference_function
from gen_worker.errors import HardwareUnmetError
from gen_worker.runtime.engine import EngineLimits
from gen_worker.runtime.wire import (
    DisabledFunction,
    EndpointConfig,
    FunctionCapabilities,
    FunctionUnavailable,
    InterruptJob,
    JobResult,
    RefStatus,
    ResolvedCompute,
    StartupPhase,
    StreamError,
    WorkerEvent,
    encode,
)
from gen_worker.runtime.worker.gpus import fake_gpus
from gen_worker.testing import VirtualClock
from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from conftest import Work


class Text(msgspec.Struct):
    text: str = ""
    count: int = 1


class Blob(msgspec.Struct):
    data: bytes


class Caller(msgspec.Struct):
    request_id: str
    owner: str | None
    invoker_id: str | None
    job_id: str | None
    hints: dict[str, Any]
    tier: str | None
    has_deadline: bool


@inference_function
def hello(ctx: RequestContext, payload: Text) -> Text:
    return Text(text=f"hello {payload.text}")


@inference_function
def blob(ctx: RequestContext, payload: Text) -> Blob:
    return Blob(data=b"\x00\xff")


@inference_function
async def count(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
    for index in range(payload.count):
        yield Text(text=f"{index} ")
        if index % 100 == 0:
            await asyncio.sleep(0)


@inference_function
def spell(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for letter in payload.text:
        yield Text(text=letter)
    raise ValueError("that is all I know")


@inference_function
async def hold(ctx: RequestContext, payload: Text) -> Text:
    ctx.emit("holding", {"text": payload.text})
    await asyncio.Event().wait()
    return payload


@inference_function
def block(ctx: RequestContext, payload: Text) -> Text:
    ctx.log("blocking")
    ctx.cancel_token.wait(60)
    return payload


@inference_function
async def save_at_once(ctx: RequestContext, payload: Text) -> Text:
    ctx.save_bytes("x.txt", b"bytes")
    return payload


@inference_function
def identify(ctx: RequestContext, payload: Text) -> Caller:
    return Caller(
        request_id=ctx.request_id,
        owner=ctx.owner,
        invoker_id=ctx.invoker_id,
        job_id=ctx.job_id,
        hints=dict(ctx.execution_hints),
        tier=ctx.compute.gpu_tier,
        has_deadline=ctx.deadline is not None,
    )


@inference_function
def lacking(ctx: RequestContext, payload: Text) -> Text:
    raise HardwareUnmetError("no tensor cores here", reason="compute_capability_unmet")


class Part(msgspec.Struct):
    item_id: str
    text: str


class Middle:
    """Where `mingle` waits once half of its items are there; of the present test."""

    go: asyncio.Event


@inference_function
async def mingle(ctx: RequestContext, payload: Text) -> AsyncIterator[Part]:
    for index in range(payload.count):
        if index == payload.count // 2:
            await Middle.go.wait()
        for item_id in ("a", "b"):
            yield Part(item_id=item_id, text=f"{index} ")
        await asyncio.sleep(0)


class Odd(msgspec.Struct):
    table: dict[int | str | None, int]


@inference_function
async def odd(ctx: RequestContext, payload: Text) -> AsyncIterator[Odd]:
    yield Odd(table={1: 1})
    yield Odd(table={None: 1})
    yield Odd(table={2: 2})


@inference(resources=Resources(requires_gpu=True))
class Painter:
    def setup(self) -> None:
        self.thread = threading.current_thread().name

    @inference.function
    def paint(self, ctx: RequestContext, payload: Text) -> Text:
        return Text(text=f"{self.thread} {threading.current_thread().name}")


@inference_function(resources=Resources(requires_gpu=True))
def render(ctx: RequestContext, payload: Text) -> Text:
    return Text(text=threading.current_thread().name)


@inference_function(resources=Resources(vram_scales_with=("count",), runtime_scales_with=("text",)))
def scaled(ctx: RequestContext, payload: Text) -> Text:
    return payload


ALL = (
    hello,
    blob,
    count,
    spell,
    hold,
    block,
    identify,
    lacking,
    mingle,
    odd,
    Painter,
    render,
    scaled,
)


async def test_a_job_is_run_and_answered(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, hello):
        worker = await orchestrator.connected()
        output = await worker.submit("hello", {"text": "world"}).output()
        assert output == {"text": "hello world", "count": 1}
        assert worker.registration.resources.available_functions == ("hello",)
        await orchestrator.until(lambda: worker.heard(FunctionCapabilities))
        await orchestrator.until(
            lambda: "ready" in [one.phase for one in worker.heard(StartupPhase)]
        )


async def test_a_function_is_found_by_its_other_names_and_bytes_become_text(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        output = await worker.submit("blob").output()
        assert base64.b64decode(output["data"]) == b"\x00\xff"


async def test_the_handler_knows_who_asked(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        job = worker.submit(
            "identify",
            request_id="r1",
            owner="acme",
            invoker_id="me",
            job_id="j1",
            timeout_ms=60_000,
            hints={"output_format": "inline", "job_id": "another"},
            compute=ResolvedCompute(accelerator="none", gpu_tier="l40"),
        )
        assert await job.output() == {
            "request_id": "r1",
            "owner": "acme",
            "invoker_id": "me",
            "job_id": "j1",
            "hints": {"output_format": "inline", "job_id": "j1"},
            "tier": "l40",
            "has_deadline": True,
        }


async def test_a_result_says_how_the_job_went(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, worker_id="w7"):
        worker = await orchestrator.connected()
        result = await worker.submit("scaled", {"text": "four", "count": 30}).result()
        seen = result.observation
        assert seen is not None
        assert (seen.worker_id, seen.function, seen.status) == ("w7", "scaled", "succeeded")
        assert seen.provider == "local"
        assert seen.scaling_factors == {"count": 30.0, "text": 4.0}
        assert seen.peak_memory_bytes > 1_000_000
        job = worker.submit("count", {"count": 50})
        streamed = (await job.result()).observation
        assert streamed is not None
        assert streamed.ttft_ms >= 1


def has_more(job: Any, seen: int) -> bool:
    return job.is_finished or len(job.deltas) > seen


async def test_a_stream_is_whole_whatever_the_connection_does(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        jobs = [worker.submit("count", {"count": 3000}) for _ in range(4)]
        for _ in range(2):
            seen = len(jobs[0].deltas)
            await orchestrator.until(partial(has_more, jobs[0], seen))
            orchestrator.cut("control")
        for job in jobs:
            assert (await job.result()).success
            assert job.text == "".join(f"{index} " for index in range(3000))
            assert not job.contradictions
            assert job.attempts == 1


async def test_a_stream_that_fails_says_so_behind_its_last_item(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, splits=False):
        worker = await orchestrator.connected()
        job = worker.submit("spell", {"text": "abc"})
        await orchestrator.until(lambda: job.end)
        result = await job.result()
        assert (result.error_type, result.success, result.payload) == ("validation", False, b"")
        assert job.text == "abc"
        assert isinstance(job.end, StreamError)
        assert job.end.error_message == result.safe_message == "that is all I know"


async def test_a_duplicate_shares_the_one_answer(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL) as running:
        worker = await orchestrator.connected()
        job = worker.submit("hold")
        await orchestrator.until(lambda: job.events)
        worker.assign(job)
        other = worker.submit("hello")
        await other.result()  # the duplicate was read before it
        assert not job.results
        assert len(running.jobs.active) == 1
        worker.send(InterruptJob(request_id=job.request.request_id))
        await job.result()
        await worker.submit("hello").result()
        assert len(job.results) == 1


@pytest.mark.parametrize("function", ["hold", "block"])
async def test_an_interrupt_stops_a_handler(work: "Work", function: str) -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        job = worker.submit(function)
        await orchestrator.until(lambda: job.events)
        worker.send(InterruptJob(request_id=job.request.request_id))
        result = await job.result()
        assert (result.error_type, result.retryable) == ("canceled", False)
        assert result.safe_message == "canceled"


async def test_an_interrupt_of_what_is_queued_runs_nothing(work: "Work") -> None:
    limits = EngineLimits(max_threads=1)
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, limits=limits):
        worker = await orchestrator.connected()
        first = worker.submit("block", request_id="first")
        await orchestrator.until(lambda: first.events)
        second = worker.submit("block", request_id="second")
        worker.send(InterruptJob(request_id="first", cancel_queued_only=True))
        worker.send(InterruptJob(request_id="second", cancel_queued_only=True))
        worker.send(InterruptJob(request_id="nobody"))
        assert (await second.result()).error_type == "canceled"
        assert not [event for event in second.events if event.event_type == "request.log"]
        assert not first.results
        worker.send(InterruptJob(request_id="first"))
        await first.result()


async def test_the_deadline_ends_a_job(work: "Work") -> None:
    clock = VirtualClock()
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, clock=clock):
        worker = await orchestrator.connected()
        job = worker.submit("hold", timeout_ms=1000)
        await orchestrator.until(lambda: job.events)
        clock.advance(1.1)
        result = await job.result()
        assert (result.error_type, result.safe_message) == ("canceled", "deadline exceeded")


async def test_what_is_asked_for_wrongly_is_refused_in_words(
    work: "Work", caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="gen_worker.worker")
    limits = EngineLimits(max_input_bytes=64)
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, limits=limits):
        worker = await orchestrator.connected()

        async def refused(function: str, payload: dict[str, Any] | None = None) -> Any:
            job = worker.submit(function, payload)
            result = await job.result()
            event = await orchestrator.until(lambda: job.events)
            assert event[0].event_type == "request.rejected"
            told = msgspec.json.decode(event[0].payload_json)
            del told["timestamp"]
            return result.error_type, result.retryable, result.safe_message, told

        assert await refused("nothing-of-the-kind") == (
            "internal",
            False,
            "internal error",
            {"reason": "unknown_function", "function_name": "nothing-of-the-kind"},
        )
        error_type, retryable, message, event = await refused("hello", {"text": "x" * 100})
        assert (error_type, retryable, message) == ("validation", False, "invalid input")
        assert event["reason"] == "input_too_large"
        assert event["input_bytes"] > 100
        error_type, _, _, event = await refused("render")
        assert (error_type, event["reason"]) == ("hardware_unmet", "cuda_unavailable")
        said = [message for message in caplog.messages if "is refused" in message]
        for number, (function, reason) in enumerate(
            [
                ("nothing-of-the-kind", "unknown_function"),
                ("hello", "input_too_large"),
                ("render", "cuda_unavailable"),
            ]
        ):
            assert said[number].startswith("request '")
            assert said[number].endswith(f"of {function!r} is refused: {reason}")
        assert len(said) == 3


async def test_more_than_may_run_is_put_off(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, max_concurrency=1):
        worker = await orchestrator.connected()
        first = worker.submit("hold")
        await orchestrator.until(lambda: first.events)
        second = await worker.submit("hello").result()
        assert (second.error_type, second.retryable) == ("retryable", True)
        assert second.safe_message == "worker busy"


async def test_a_full_queue_is_told_as_overload(work: "Work") -> None:
    limits = EngineLimits(max_threads=1, max_queue=1)
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, limits=limits):
        worker = await orchestrator.connected()
        first = worker.submit("block")
        await orchestrator.until(lambda: first.events)
        second, third = worker.submit("block"), worker.submit("block")
        result = await third.result()
        assert (result.error_type, result.retryable) == ("worker_overloaded", True)
        worker.send(InterruptJob(request_id=second.request.request_id))
        worker.send(InterruptJob(request_id=first.request.request_id))


async def test_a_disabled_function_is_neither_advertised_nor_run(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        disabled = DisabledFunction(function="hello", reason="repo_deleted", detail="it is gone")
        worker.send(EndpointConfig(disabled_functions=(disabled,)))
        result = await worker.submit("hello").result()
        assert (result.error_type, result.safe_message) == ("function_unavailable", "it is gone")
        await orchestrator.until(
            lambda: "hello" not in worker.registration.resources.available_functions
        )
        worker.send(EndpointConfig())
        assert (await worker.submit("hello").result()).success


async def test_a_function_that_finds_the_machine_lacking_stays_disabled(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        result = await worker.submit("lacking").result()
        assert result.error_type == "hardware_unmet"
        signal = (await orchestrator.until(lambda: worker.heard(FunctionUnavailable)))[0]
        assert (signal.function, signal.reason) == ("lacking", "compute_capability_unmet")
        assert signal.detail == "no tensor cores here"
        worker.send(EndpointConfig())
        again = worker.submit("lacking")
        assert (await again.result()).error_type == "hardware_unmet"
        orchestrator.cut()
        await orchestrator.until(lambda: len(worker.heard(FunctionUnavailable)) == 2)


async def test_each_gpu_runs_what_is_meant_for_it(work: "Work") -> None:
    gpus = fake_gpus(2, 24 * 1024**3, "FakeGPU")
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, gpus=gpus):
        worker = await orchestrator.connected()
        resources = worker.registration.resources
        assert (resources.gpu_count, resources.gpu_name) == (2, "FakeGPU")
        assert resources.gpu_memory_bytes == 24 * 1024**3
        for index in (1, 0):
            compute = ResolvedCompute(accelerator="cuda", gpu_index=index)
            output = await worker.submit("render", compute=compute).output()
            assert f"cuda:{index}" in output["text"]
        compute = ResolvedCompute(accelerator="cuda", gpu_index=7)
        result = await worker.submit("render", compute=compute).result()
        assert result.error_type == "hardware_unmet"


async def test_a_request_for_another_kind_of_gpu_is_run_and_warned_of(
    work: "Work", caplog: pytest.LogCaptureFixture
) -> None:
    gpus = fake_gpus(1, 24 * 1024**3, "NVIDIA H100 80GB HBM3")
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, gpus=gpus):
        worker = await orchestrator.connected()
        for tier in ("", "H100", "h100-80gb", "A100-80gb", "A100-80gb"):
            compute = ResolvedCompute(accelerator="cuda", gpu_tier=tier)
            assert (await worker.submit("render", compute=compute).result()).success
    (said,) = [message for message in caplog.messages if "is meant for" in message]
    assert said.endswith("is meant for a GPU 'A100-80gb', and here is NVIDIA H100 80GB HBM3")


async def test_a_class_has_an_instance_on_each_gpu_it_is_asked_for(work: "Work") -> None:
    gpus = fake_gpus(2, 24 * 1024**3, "FakeGPU")
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, gpus=gpus):
        worker = await orchestrator.connected()
        for index in (1, 0, 1):
            compute = ResolvedCompute(accelerator="cuda", gpu_index=index)
            output = await worker.submit("paint", compute=compute).output()
            assert output["text"].count(f"cuda:{index}") == 2
        # Nobody chose one: where it was set up first.
        assert "cuda:1" in (await worker.submit("paint").output())["text"]


async def test_single_items_of_a_stream_may_be_interrupted(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        Middle.go = asyncio.Event()
        job = worker.submit("mingle", {"count": 300})
        await orchestrator.until(lambda: {one.item_id for one in job.deltas.values()} == {"a", "b"})
        worker.send(InterruptJob(request_id=job.request.request_id, item_ids=("b",)))
        await worker.submit("hello").result()  # which was read after the interrupt
        Middle.go.set()
        assert (await job.result()).success
        texts = {
            item_id: "".join(
                job.deltas[number].delta_text
                for number in sorted(job.deltas)
                if job.deltas[number].item_id == item_id
            ).split()
            for item_id in ("a", "b")
        }
        assert texts["a"] == [str(index) for index in range(300)]
        assert 0 < len(texts["b"]) < 300
        assert texts["b"] == texts["a"][: len(texts["b"])]


async def test_an_item_that_json_cannot_say_fails_its_request(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL, splits=False):
        worker = await orchestrator.connected()
        job = worker.submit("odd")
        await orchestrator.until(lambda: job.end)
        result = await job.result()
        assert (result.success, isinstance(job.end, StreamError)) == (False, True)
        assert result.error_type != "canceled"
        assert len(job.deltas) == 1
        assert (await worker.submit("hello").result()).success


async def test_a_token_that_is_sent_is_used_next(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        assert worker.metadata["authorization"] == "Bearer a-token"
        for payload in (b"no json", b"{}", b'{"worker_jwt": 5}'):
            event = WorkerEvent(event_type="worker.jwt.rotate", payload_json=payload)
            worker.send(encode(event))
        payload = b'{"worker_jwt": "another"}'
        worker.send(encode(WorkerEvent(event_type="worker_jwt.rotate", payload_json=payload)))
        await worker.submit("hello").result()
        orchestrator.cut()
        await orchestrator.until(lambda: len(worker.registrations) == 2)
        assert worker.metadata["authorization"] == "Bearer another"


async def test_a_token_that_was_replaced_where_it_is_kept_is_used_next(work: "Work") -> None:
    kept = ["a-token"]
    async with (
        Orchestrator() as orchestrator,
        work(orchestrator, *ALL, read_token=lambda: kept[0]),
    ):
        worker = await orchestrator.connected()
        kept[0] = "fresh"
        orchestrator.cut()
        await orchestrator.until(lambda: len(worker.registrations) == 2)
        assert worker.metadata["authorization"] == "Bearer fresh"


async def test_a_job_that_did_not_arrive_is_run_when_it_comes_again(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        await orchestrator.stop()
        await orchestrator.until(lambda: not worker.is_connected)
        job = worker.submit("hello", {"text": "again"})
        worker._commands.clear()  # it was lost on its way
        await orchestrator.start()
        assert (await job.output())["text"] == "hello again"
        assert job.attempts == 2


async def test_what_is_not_for_a_worker_changes_nothing(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        worker.send(encode(JobResult(request_id="r", success=True)))
        job = worker.submit("hello", timeout_ms=-5)
        job.request = msgspec.structs.replace(job.request, payload=b"\xc1")
        garbage = orchestrator.job("hello")
        worker.send(encode(msgspec.structs.replace(garbage.request, payload=b"\xc1\x00")))
        assert (await garbage.result()).error_type == "validation"
        assert (await worker.submit("hello").result()).success


async def test_capabilities_say_what_is_missing(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        told = (await orchestrator.until(lambda: worker.heard(FunctionCapabilities)))[0]
        functions = msgspec.json.decode(told.capabilities_json)["functions"]
        names = [one["function_name"] for one in functions]
        assert names == sorted(names)
        render_record = next(one for one in functions if one["function_name"] == "render")
        assert render_record["accelerator"] == "cuda"
        assert render_record["available"] is False
        assert render_record["unavailable_reason"] == "cuda_unavailable"
        assert render_record["unavailable_axes"] == {"accelerator": "cuda", "gpu_count": "0"}
        assert next(one for one in functions if one["function_name"] == "count")["output_mode"] == (
            "incremental"
        )


async def test_running_and_unsent_requests_are_named_after_a_reconnect(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        job = worker.submit("hold")
        await orchestrator.until(lambda: job.events)
        await orchestrator.stop()
        await orchestrator.until(lambda: not worker.is_connected)
        await orchestrator.start()
        await orchestrator.until(lambda: len(worker.registrations) == 2)
        assert job.request.request_id in worker.registrations[1].in_flight_request_ids
        assert job.attempts == 1
        worker.send(InterruptJob(request_id=job.request.request_id))
        assert (await job.result()).error_type == "canceled"
        assert len(worker.heard(JobResult)) == 1


async def test_ready_is_said_to_every_connection(work: "Work") -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()

        def phases() -> list[str]:
            return [one.phase for one in worker.heard(StartupPhase)]

        await orchestrator.until(lambda: phases().count("ready") == 1)
        orchestrator.cut()
        await orchestrator.until(lambda: phases().count("ready") == 2)
        assert phases() == ["", "models_downloading", "ready"] * 2
        assert len(worker.heard(FunctionCapabilities)) == 2


async def test_a_key_whose_model_is_gone_is_refused(work: "Work") -> None:
    # `hello` has no models: a status of a key it does not select changes nothing.
    status = RefStatus(ref="acme/gone", status="repo_deleted")
    async with Orchestrator() as orchestrator, work(orchestrator, *ALL):
        worker = await orchestrator.connected()
        worker.send(EndpointConfig(ref_status_by_function={"hello": {"model": status}}))
        assert (await worker.submit("hello").result()).success


async def test_a_handler_that_blocks_on_a_file_at_once_holds_nobody_up(
    work: "Work", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From Python 3.12 on it begins before `submit` has returned; its files find their job."""
    monkeypatch.setenv("WORKER_JOB_DIR", str(tmp_path))
    async with Orchestrator() as orchestrator, work(orchestrator, save_at_once, hello):
        worker = await orchestrator.connected()
        result = await worker.submit("save-at-once").result()
        assert (result.success, result.error_type) == (False, "auth"), "there is no hub to save to"
        assert await worker.submit("hello", {"text": "you"}).output()
