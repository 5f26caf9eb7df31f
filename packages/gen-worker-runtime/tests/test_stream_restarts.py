"""A worker process is killed in the middle of a stream: its client is told, and gets all of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from gen_worker.client import AsyncClient, StreamRestartedError
from gen_worker.discovery import build_lock
from gen_worker.manifest import dump_lock
from gen_worker.models.settings import ModelSettings
from gen_worker.project import load_project
from gen_worker.runtime.scheduler import Scheduler, SchedulerSettings
from gen_worker.testing.workers import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TIMEOUT_S = 120.0
PROJECT = """
from collections.abc import Iterator
from pathlib import Path

import msgspec
from gen_worker import RequestContext, inference_function


class Text(msgspec.Struct):
    text: str = ""
    marks: str = ""


class Word(msgspec.Struct):  # no text, of which several make one item when they come quickly
    word: str


@inference_function
def spell(ctx: RequestContext, payload: Text) -> Iterator[Word]:
    words = payload.text.split()
    if (mark := Path(payload.marks, "begun")).exists():
        yield from map(Word, words)
        return
    mark.touch()
    yield from map(Word, words[:2])
    ctx.cancel_token.wait()  # the kill comes first
"""
WORDS = "one two three four five".split()


class Scene(NamedTuple):
    client: AsyncClient
    process: WorkerProcess
    payload: dict[str, str]

    async def replace_worker(self) -> None:
        await asyncio.to_thread(self.process.kill)
        await asyncio.to_thread(self.process.start)


@asynccontextmanager
async def playing(folder: Path) -> AsyncIterator[Scene]:
    project = folder / "project"
    project.mkdir()
    (project / "endpoint.toml").write_text('schema_version = 1\nname = "words"\nmain = "words"\n')
    (project / "words.py").write_text(PROJECT)
    settings = SchedulerSettings(
        data_dir=str(folder / "data"), http="127.0.0.1:0", workers="127.0.0.1:0", drain_s=1.0
    )
    async with asyncio.timeout(TIMEOUT_S):
        scheduler = await Scheduler.open(settings, models=ModelSettings())
        try:
            token = await published(scheduler, project)
            process = await asyncio.to_thread(
                WorkerProcess,
                project,
                scheduler.worker_address,
                environment={"WORKER_JWT": token},
            )
            with process:
                async with AsyncClient(scheduler.url) as client:
                    payload = {"text": " ".join(WORDS), "marks": str(folder)}
                    yield Scene(client, process, payload)
        finally:
            await scheduler.close()


async def published(scheduler: Scheduler, project: Path) -> str:
    """Publish a project and return what its worker connects with."""
    lock = await asyncio.to_thread(lambda: build_lock(load_project(project)))
    release = await scheduler.releases.publish(
        project,
        lock=dump_lock(lock.table).encode(),
        environment="test",
        owner="local-dev",
        first_tag="prod",
    )
    release_id = release.record.release_id
    return await asyncio.to_thread(scheduler.issue_worker_token, release_id, "worker-1")


async def test_who_listens_gets_the_items_of_the_next_attempt(tmp_path: Path) -> None:
    async with playing(tmp_path) as scene:
        begun: list[int] = []
        seen: list[str] = []

        def forget(attempt: int) -> None:
            begun.append(attempt)
            seen.clear()

        async for item in scene.client.stream("spell", scene.payload, on_restart=forget):
            seen.append(item["word"])
            if not begun and seen == WORDS[:2]:
                await scene.replace_worker()
        assert (begun, seen) == ([2], WORDS)


async def test_who_does_not_is_told_and_may_call_again(tmp_path: Path) -> None:
    async with playing(tmp_path) as scene:
        seen: list[str] = []

        async def read() -> None:
            async for item in scene.client.stream("spell", scene.payload):
                seen.append(item["word"])
                if seen == WORDS[:2]:
                    await scene.replace_worker()

        with pytest.raises(StreamRestartedError) as told:
            await read()
        assert (seen, told.value.attempt) == (WORDS[:2], 2)
        left = await scene.client.request(told.value.request_id).show()
        assert left["function"] == "spell"
        again = await scene.client.run("spell", scene.payload)
        assert [item["word"] for item in again] == WORDS


async def test_the_output_of_a_submitted_request_is_whole(tmp_path: Path) -> None:
    async with playing(tmp_path) as scene:
        request = await scene.client.submit("spell", scene.payload)
        names: list[str] = []
        async for event in request.events():
            names.append(event.name)
            if names == ["delta"] * 2:
                await scene.replace_worker()
        assert names == ["delta"] * 2 + ["restarted"] + ["delta"] * 5 + ["result"]
        assert [item["word"] for item in await request.result()] == WORDS
