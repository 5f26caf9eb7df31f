"""The dispatcher and workers as they are: in this process, and in one that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator  # noqa: TC003 - functions are read with their annotations
from typing import TYPE_CHECKING

import msgspec

from gen_worker import RequestContext, RetryableError, inference_function
from gen_worker.runtime.worker.options import WorkerOptions
from gen_worker.testing.cable import Cable
from gen_worker.testing.workers import DEV_TOKEN, WorkerProcess, working

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Kit


class Text(msgspec.Struct):
    text: str = ""
    count: int = 1


seen: dict[str, int] = {}


@inference_function
async def echo(ctx: RequestContext, payload: Text) -> Text:
    return payload


@inference_function
def count(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for index in range(payload.count):
        ctx.progress(index / payload.count)
        yield Text(text=f"{index} ", count=index)


@inference_function
async def hold(ctx: RequestContext, payload: Text) -> Text:
    await asyncio.Event().wait()
    return payload


@inference_function
async def flaky(ctx: RequestContext, payload: Text) -> Text:
    seen[payload.text] = seen.get(payload.text, 0) + 1
    if seen[payload.text] == 1:
        raise RetryableError("not yet")
    return payload


FUNCTIONS = [echo, count, hold, flaky]


async def test_calls_streams_retries_and_cancels(kit: Kit) -> None:
    async with kit.scheduling(described={"count": kit.streamed}) as platform:
        async with working(FUNCTIONS, platform.gateway.address):
            await platform.submit("e", payload={"text": "hello"})
            await platform.submit("c", "count", payload={"count": 1000})
            await platform.submit("f", "flaky", payload={"text": "once"})
            await platform.submit("h", "hold")
            assert await platform.output("e") == {"text": "hello", "count": 1}
            yielded = await platform.output("c")
            deltas = [data for name, data in await platform.events("c") if name == "delta"]
            assert yielded == {"yielded": len(deltas)}
            text = "".join(item["text"] for item in deltas)
            assert text == "".join(f"{index} " for index in range(1000))
            assert await platform.output("f") == {"text": "once", "count": 1}
            assert (await platform.end("f")).attempt == 2
            await platform.until("h", lambda one: one.status == "running")
            assert await platform.requests.cancel("h")
            assert (await platform.end("h")).status == "canceled"
            member = platform.dispatcher.fleet.find("worker-1")
            await platform.seen(lambda: member is not None and not member.jobs)


async def test_whatever_the_network_does_each_request_ends_once(kit: Kit) -> None:
    async with kit.scheduling(described={"count": kit.streamed}) as platform:
        async with Cable(platform.gateway.address) as cable, working(FUNCTIONS, cable.address):
            names = []
            for number in range(120):
                if number % 30 == 10:
                    cable.cut_after(more_bytes=number * 7)
                if number % 30 == 20:
                    cable.cut()
                function = "count" if number % 3 == 0 else "echo"
                names.append(f"r{number}")
                payload = {"text": f"text {number}", "count": 50}
                await platform.submit(names[-1], function, payload)
                if number % 8 == 7:
                    await asyncio.gather(*map(platform.end, names[-8:-4]))
            for number, name in enumerate(names):
                record = await platform.end(name)
                assert record.status == "succeeded", record.ending
                events = await platform.events(name)
                assert [one for one, _ in events].count("result") == 1
                if number % 3 == 0:
                    last = max(
                        (at for at, (one, _) in enumerate(events) if one == "restarted"), default=-1
                    )
                    deltas = [data for one, data in events[last + 1 :] if one == "delta"]
                    text = "".join(item["text"] for item in deltas)
                    assert text == "".join(f"{index} " for index in range(50))


async def test_a_worker_that_drains_leaves_its_work_to_others(kit: Kit) -> None:
    async with kit.scheduling() as platform:
        address = platform.gateway.address
        first = WorkerOptions(token=DEV_TOKEN, worker_id="first")
        second = WorkerOptions(token=DEV_TOKEN, worker_id="second")
        async with working(FUNCTIONS, address, options=first):
            await platform.seen(lambda: len(platform.dispatcher.workers()) == 1)
            assert await platform.dispatcher.drain("first")
            await platform.seen(lambda: not platform.dispatcher.workers())
            await platform.submit("e")
            async with working(FUNCTIONS, address, options=second):
                await platform.output("e")


PROJECT = """
import msgspec, time
from gen_worker import RequestContext, inference_function

class Text(msgspec.Struct):
    text: str = ""

@inference_function
def echo(ctx: RequestContext, payload: Text) -> Text:
    time.sleep(0.05)
    return payload
"""


async def test_a_worker_process_that_is_killed_loses_nothing(kit: Kit, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "endpoint.toml").write_text('schema_version = 1\nname = "paint"\nmain = "paint"\n')
    (project / "paint.py").write_text(PROJECT)
    options = msgspec.structs.replace(kit.easy, processor_slots=2)
    async with kit.scheduling(options=options) as platform:
        address = platform.gateway.address
        process = await asyncio.to_thread(WorkerProcess, project, address)
        with process:
            for number in range(20):
                await platform.submit(f"r{number}", payload={"text": f"{number}"})
            await platform.end("r3")
            process.kill()
            process.start()
            for number in range(20):
                assert await platform.output(f"r{number}") == {"text": f"{number}"}
                names = [name for name, _ in await platform.events(f"r{number}")]
                assert names.count("result") == 1
