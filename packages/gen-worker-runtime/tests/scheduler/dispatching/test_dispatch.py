"""Requests go to workers and come back: results, streams, reports, failures, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.runtime.wire import (
    EndpointConfig,
    InterruptJob,
    JobRequest,
    JobResult,
    StreamDone,
    TokenDelta,
    WorkerEvent,
)

if TYPE_CHECKING:
    from conftest import Kit
    from gen_worker.errors import Failure


def event(request_id: str, event_type: str, **payload: object) -> WorkerEvent:
    return WorkerEvent(
        request_id=request_id, event_type=event_type, payload_json=msgspec.json.encode(payload)
    )


def failure_in(record: object) -> Failure:
    ending = getattr(record, "ending", None)
    assert ending is not None
    assert ending.failure is not None
    failure: Failure = ending.failure
    return failure


async def test_a_request_goes_to_a_worker_and_its_result_to_disk(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        record = await platform.submit("r1", payload={"text": "hello"})
        job = await worker.job("r1")
        assert msgspec.msgpack.decode(job.payload) == {"text": "hello"}
        assert (job.function, job.owner) == ("echo", "caller")
        assert (job.file_base_url, job.capability_token) == ("http://files", "for r1")
        running = await platform.until("r1", lambda one: one.status == "running")
        assert (running.worker_id, running.attempt) == ("w1", 1)
        await worker.answer("r1", {"text": "HELLO"})
        ended = await platform.end("r1")
        assert (ended.status, ended.seq) == ("succeeded", record.seq)
        ((name, answer),) = await platform.events("r1")
        assert name == "result"
        assert answer["output"] == {"text": "HELLO"}
        assert (answer["request_id"], answer["success"]) == ("r1", True)
        assert answer["timing_ms"]["compute_ms"] == kit.ran.runtime_ms
        (view,) = platform.dispatcher.workers()
        assert (view.id, view.state, view.functions, view.running) == ("w1", "ready", ("echo",), ())


async def test_what_a_handler_said_before_it_failed_is_kept_though_its_failure_is_faster(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results have a stream of their own, and nothing orders the two."""
    from gen_worker.runtime.scheduler.dispatcher import taking

    monkeypatch.setattr(taking, "_STRAGGLERS_S", 60.0)
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job("r1")
        await worker.fail("r1", "fatal")
        member = platform.dispatcher.fleet.find("w1")
        assert member is not None
        await platform.seen(lambda: member.jobs["r1"].result is not None)
        await worker.say(
            event("r1", "request.log", level="error", message="out of ink"),
            event("r1", "request.failed"),
        )
        assert failure_in(await platform.end("r1")).error_type == "fatal"
        (_, said), (name, _) = await platform.events("r1")
        assert (said["payload"]["message"], name) == ("out of ink", "error")


@pytest.mark.parametrize("is_split", [True, False])
async def test_what_waited_before_its_worker_came_is_given_to_it(kit: Kit, is_split: bool) -> None:
    async with kit.scheduling() as platform:
        for number in range(5):
            await platform.submit(f"r{number}")
        assert platform.requests.queues() == {"/echo": 5}
        async with kit.puppet(platform, is_split=is_split) as worker:
            given = [(await worker.job()).request_id for _ in range(5)]
            assert given == [f"r{number}" for number in range(5)]
            for request_id in given:
                await worker.answer(request_id)
            for request_id in given:
                assert await platform.output(request_id) == {"text": request_id}


async def test_a_stream_is_whole_in_order_and_each_item_once(kit: Kit) -> None:
    async with kit.scheduling(described={"echo": kit.streamed}) as platform:
        async with kit.puppet(platform) as worker:
            await platform.submit("r1")
            await worker.job()
            await worker.stream("r1", 1, 2, 2, 4)
            await worker.finish("r1")  # it overtakes the rest
            await worker.stream("r1", 1, 5)
            await worker.done("r1", 6)
            await worker.done("r1", 6)
            assert (await platform.until("r1", lambda one: one.last_sequence == 2)).ending is None
            await worker.stream("r1", 3)
            assert await platform.output("r1") == {"yielded": 5}
            events = await platform.events("r1")
            assert [data for name, data in events if name == "delta"] == [
                {"text": f"{number} "} for number in range(1, 6)
            ]
            record = await platform.end("r1")
            assert record.ending is not None
            assert record.ending.is_streamed


async def test_a_streamed_item_with_sound_is_shown_as_other_hosts_show_it(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        sound = TokenDelta(
            request_id="r1",
            sequence=1,
            payload_json=b'{"text":"a"}',
            audio_chunk=b"\x00\xff",
            audio_codec="opus_48000",
        )
        await worker.say(sound, StreamDone(request_id="r1", sequence=2), role="events")
        await worker.finish("r1")
        await platform.end("r1")
        (name, item), _ = await platform.events("r1")
        assert name == "delta"
        assert item == {"text": "a", "audio_chunk": "AP8=", "audio_codec": "opus_48000"}


async def test_reports_have_the_form_of_every_host(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform, is_split=False) as worker:
        await platform.submit("r1")
        await worker.job()
        await worker.say(
            event("r1", "request.progress", timestamp=5.5, progress=0.5, stage="half"),
            event("r1", "request.log", timestamp=6.5, level="info", message="hello"),
            event("", "worker.something", timestamp=7.0),
            event("r2", "request.log", timestamp=8.0, message="of another"),
            WorkerEvent(request_id="r1", event_type="broken", payload_json=b"nonsense"),
            kit.success("r1"),
        )
        await platform.end("r1")
        first, second, last = await platform.events("r1")
        assert first == (
            "progress",
            {
                "request_id": "r1",
                "event_type": "request.progress",
                "payload": {"progress": 0.5, "stage": "half"},
                "timestamp": 5.5,
            },
        )
        assert second[0] == "event"
        assert second[1]["payload"] == {"level": "info", "message": "hello"}
        assert last[0] == "result"


async def test_a_result_said_twice_ends_a_request_once(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        await worker.say(kit.success("r1", {"n": 1}), kit.success("r1", {"n": 2}), role="results")
        assert await platform.output("r1") == {"n": 1}
        await platform.submit("r2")
        await worker.job("r2")
        await worker.answer("r2")
        await platform.end("r2")
        assert len(await platform.events("r1")) == 1


@pytest.mark.parametrize(
    ("error_type", "status"),
    [("validation", 400), ("fatal", 500), ("internal", 500), ("resource", 503), ("odd", 500)],
)
async def test_a_failure_for_good_ends_a_request(kit: Kit, error_type: str, status: int) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        await worker.fail("r1", error_type)
        record = await platform.end("r1")
        failure = failure_in(record)
        assert (record.status, record.attempt) == ("failed", 1)
        assert failure.error_type == ("internal" if error_type == "odd" else error_type)
        assert (failure.http_status, failure.message) == (status, "it did not work")


async def test_a_failure_that_may_be_gone_is_tried_again(kit: Kit) -> None:
    async with kit.scheduling(described={"echo": kit.streamed}) as platform:
        async with kit.puppet(platform) as worker:
            await platform.submit("r1")
            await worker.job()
            await worker.stream("r1", 1, 2)
            await platform.until("r1", lambda one: one.last_sequence == 2)
            await worker.fail("r1", "retryable", retryable=True)
            await worker.job("r1")
            await worker.stream("r1", 1)
            await worker.done("r1", 2)
            await worker.finish("r1")
            assert await platform.output("r1") == {"yielded": 1}
            names = [name for name, _ in await platform.events("r1")]
            assert names == ["delta", "delta", "restarted", "delta", "result"]


async def test_an_output_beyond_the_limit_fails_the_request(kit: Kit) -> None:
    options = msgspec.structs.replace(kit.easy, max_output_bytes=1000)
    async with kit.scheduling(options=options) as platform, kit.puppet(platform) as worker:
        await platform.submit("whole")
        await platform.submit("streamed")
        jobs = {(await worker.job()).request_id for _ in range(2)}
        assert jobs == {"whole", "streamed"}
        await worker.answer("whole", {"text": "x" * 1000})
        assert failure_in(await platform.end("whole")).exception == "OutputTooLargeError"
        for sequence in range(1, 100):
            await worker.stream("streamed", sequence)
        assert failure_in(await platform.end("streamed")).error_type == "validation"
        assert (await worker.expect(InterruptJob)).request_id == "streamed"
        await worker.fail("streamed", "canceled")
        member = platform.dispatcher.fleet.find("w1")
        await platform.seen(lambda: member is not None and not member.jobs)


async def test_an_output_nobody_can_read_fails_the_request(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        await worker.say(JobResult(request_id="r1", success=True, payload=b"\xc1"), role="results")
        assert (await platform.end("r1")).status == "failed"


async def test_a_large_result_is_the_same_as_a_small_one(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        await worker.answer("r1", {"text": "x" * 1_000_000})
        assert await platform.output("r1") == {"text": "x" * 1_000_000}


async def test_a_cancel_reaches_the_worker_and_its_slot_is_free_afterwards(kit: Kit) -> None:
    options = msgspec.structs.replace(kit.easy, processor_slots=1)
    async with kit.scheduling(options=options) as platform, kit.puppet(platform) as worker:
        await platform.submit("r1")
        await worker.job()
        await platform.until("r1", lambda one: one.status == "running")
        assert await platform.requests.cancel("r1")
        assert (await worker.expect(InterruptJob)).request_id == "r1"
        await platform.submit("r2")
        await worker.fail("r1", "canceled")
        assert (await platform.end("r1")).status == "canceled"
        await worker.job("r2")


async def test_a_deadline_that_passes_while_it_runs_ends_it(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        now = platform.dispatcher.clock()
        await platform.submit("r1", deadline_at=now + 2.0)
        job = await worker.job()
        assert 0 < job.timeout_ms <= 2000
        record = await platform.end("r1")
        assert failure_in(record).exception == "DeadlineExceededError"
        assert (await worker.expect(InterruptJob)).request_id == "r1"


async def test_a_function_that_no_release_has_fails_at_once(kit: Kit) -> None:
    async with kit.scheduling() as platform:
        await platform.submit("r1", "unknown")
        assert failure_in(await platform.end("r1")).http_status == 404


async def test_a_worker_is_told_its_configuration_once_for_each_connection(kit: Kit) -> None:
    async with kit.scheduling() as platform, kit.puppet(platform) as worker:
        await worker.say(worker.registration())  # anew, on the same connection
        await platform.submit("r1")
        commands = [await worker.commands.get()]
        while not isinstance(commands[-1], JobRequest):
            commands.append(await worker.commands.get())
        assert not any(isinstance(one, EndpointConfig) for one in commands)


async def test_a_gpu_is_named_to_the_worker(kit: Kit) -> None:
    gpus: dict[str, Any] = {
        "gpu_count": 2,
        "gpu_memory_bytes": 80 << 30,
        "gpu_memory_free_bytes": 79 << 30,
        "gpu_name": "NVIDIA H200",
        "gpu_sm": "90",
    }
    async with kit.scheduling(described={"echo": kit.gpu}) as platform:
        async with kit.puppet(platform, **gpus) as worker:
            for number in range(2):
                await platform.submit(f"r{number}")
            jobs = [await worker.job() for _ in range(2)]
            computes = [job.compute for job in jobs]
            assert all(one is not None and one.accelerator == "cuda" for one in computes)
            assert {one.gpu_index for one in computes if one is not None} == {0, 1}
            (view,) = platform.dispatcher.workers()
            assert [(one.kind, one.running) for one in view.devices] == [
                ("gpu", 1),
                ("gpu", 1),
                ("cpu", 0),
            ]
