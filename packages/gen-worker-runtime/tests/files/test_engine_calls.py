"""Calls of the engine on a worker's files: limits, cancels and what is left behind."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

from gen_worker import Asset, AssetLimits, RequestContext, inference_function
from gen_worker.context.local import run_blocking
from gen_worker.events import Failed, Result
from gen_worker.ports import Ports
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.files import FilePolicy, FileSettings, HubPublisher, JobScope
from gen_worker.settings import load
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from conftest import Asked, Hub, MakeFiles, Told, WebServer
    from gen_worker.runtime.files import WorkerFiles


class In(msgspec.Struct):
    file: Asset
    large: Annotated[Asset, AssetLimits(max_bytes=100)] | None = None


class Out(msgspec.Struct):
    content: str
    place: str = ""
    file: Asset | None = None


@inference_function
def read(ctx: RequestContext, payload: In) -> Out:
    content = payload.file.read_bytes().decode()
    return Out(content, str(payload.file.local_path))


@inference_function
async def read_async(ctx: RequestContext, payload: In) -> Out:
    return read(ctx, payload)


@inference_function
def stream(ctx: RequestContext, payload: In) -> Out:
    with ctx.open_output_stream("log.txt") as out:
        out.write(payload.file.read_bytes())
    return Out("", file=out.finalize())


@inference_function
def inline(ctx: RequestContext, payload: In) -> Out:
    return Out("", file=ctx.save_bytes("x.txt", b"small"))


FUNCTIONS = [read, read_async, stream, inline]


def engine_of(files: WorkerFiles) -> Engine:
    models: Any = None
    ports = Ports(
        files=files,
        events=files.events,
        models=models,
        publisher=HubPublisher(files),
        run=run_blocking,
    )
    return Engine([spec for one in FUNCTIONS for spec in specs_of(one)], ports)


async def call(
    files: WorkerFiles, function: str, payload: Any, scope: JobScope, **more: Any
) -> Any:
    engine = engine_of(files)
    files.enter("r", scope)
    invocation = Invocation(
        function=function, payload=msgspec.json.encode(payload), request_id="r", **more
    )
    try:
        return await engine.call(invocation)
    finally:
        files.leave("r")
        await engine.close()


@pytest.mark.parametrize("function", ["read", "read-async"])
async def test_a_handler_finds_its_files_and_leaves_none(
    make_files: MakeFiles, web: WebServer, function: str
) -> None:
    files = make_files(trusted_urls=(web.origin,))
    payload = {"file": {"ref": web.page("/a", b"hello"), "local_path": "/etc/passwd"}}
    outcome = await call(files, function, payload, JobScope())
    assert isinstance(outcome, Result), outcome
    assert outcome.value.content == "hello"
    assert not os.path.exists(outcome.value.place)
    assert len(files.requests) == 0


@pytest.mark.parametrize(
    ("size", "large", "is_fine"),
    [(10, None, True), (11, None, False), (1, 100, True), (1, 101, False)],
)
async def test_the_operator_limits_what_the_author_does_not(
    make_files: MakeFiles, web: WebServer, size: int, large: int | None, is_fine: bool
) -> None:
    """And callers limit nothing."""
    files = make_files(trusted_urls=(web.origin,), max_input_bytes=10)
    small = {"ref": web.page("/a", bytes(size)), "url_max_bytes": 10**9}
    payload: dict[str, Any] = {"file": small}
    if large is not None:
        payload["large"] = {"ref": web.page("/b", bytes(large))}
    outcome = await call(files, "read", payload, JobScope())
    if is_fine:
        assert isinstance(outcome, Result), outcome
    else:
        assert isinstance(outcome, Failed)
        assert outcome.failure.http_status == 413


async def test_outputs_of_a_call_go_to_the_hub_of_its_job(
    make_files: MakeFiles, web: WebServer, hub: Hub, told: Told
) -> None:
    files = make_files(told=told, trusted_urls=(web.origin,))
    payload = {"file": {"ref": web.page("/a", b"hello")}}
    outcome = await call(files, "stream", payload, hub.scope())
    assert isinstance(outcome, Result), outcome
    assert outcome.value.file.ref == "jobs/r/outputs/log.txt"
    assert outcome.value.file.media_id
    assert told.stages()[0] == "stream_write"
    assert told.stages().count("stream_finalized") == 1


async def test_small_outputs_may_travel_in_the_answer(
    make_files: MakeFiles, web: WebServer
) -> None:
    files = make_files(trusted_urls=(web.origin,))
    payload = {"file": {"ref": web.page("/a", b"hello")}}
    hints = {"output_format": "inline"}
    outcome = await call(files, "inline", payload, JobScope(), hints=hints)
    assert isinstance(outcome, Result), outcome
    assert outcome.value.file.inline_bytes == b"small"


@pytest.mark.parametrize("function", ["read", "read-async"])
async def test_a_canceled_call_ends_its_download(
    make_files: MakeFiles, web: WebServer, function: str
) -> None:
    begun = threading.Event()

    def stall(asked: Asked) -> None:
        asked.head(200, Content_Length=10)
        begun.set()
        web.released.wait()

    class Sink:
        wants_events = False

        def __init__(self) -> None:
            self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def deliver(self, batch: Any) -> None:
            if isinstance(batch[-1], Result | Failed):
                self.ended.set_result(batch[-1])

    files = make_files(trusted_urls=(web.origin,), download_tries=1)
    engine, sink = engine_of(files), Sink()
    files.enter("r", JobScope())
    payload = msgspec.json.encode({"file": {"ref": web.page("/stall", stall)}})
    running = engine.submit(Invocation(function=function, payload=payload, request_id="r"), sink)
    files.follow("r", running.token)
    await asyncio.to_thread(begun.wait, 60)
    running.token.cancel()
    outcome = await asyncio.wait_for(sink.ended, 60)
    assert outcome.failure.error_type == "canceled"
    await engine.close()
    files.leave("r")


# Settings


ENVIRONMENT = {
    "WORKER_JOB_DIR": "/jobs",
    "WORKER_CACHE_DIR": "/cache",
    "WORKER_INPUT_CACHE_BYTES": "1",
    "WORKER_MAX_INPUT_FILE_BYTES": "2",
    "WORKER_MAX_INPUT_PIXELS": "3",
    "WORKER_MAX_UPLOAD_BYTES": "4",
    "WORKER_DOWNLOAD_RETRIES": "5",
    "WORKER_STREAM_UPLOAD_RETRY_ATTEMPTS": "6",
    "WORKER_STREAM_UPLOAD_RETRY_BACKOFF_MS": "7000",
    "WORKER_STREAM_PROGRESS_INTERVAL_S": "0.8",
    "WORKER_TRUSTED_URLS": "http://10.0.0.1:9000,http://dev.example",
}


@pytest.mark.claims(
    "WORKER_JOB_DIR",
    "WORKER_CACHE_DIR",
    "WORKER_INPUT_CACHE_BYTES",
    "WORKER_MAX_INPUT_FILE_BYTES",
    "WORKER_MAX_INPUT_PIXELS",
    "WORKER_MAX_UPLOAD_BYTES",
    "WORKER_DOWNLOAD_RETRIES",
    "WORKER_STREAM_UPLOAD_RETRY_ATTEMPTS",
    "WORKER_STREAM_UPLOAD_RETRY_BACKOFF_MS",
    "WORKER_STREAM_PROGRESS_INTERVAL_S",
    "WORKER_TRUSTED_URLS",
)
def test_what_the_environment_says_is_the_policy() -> None:
    policy = FilePolicy.of(load(FileSettings, environ=ENVIRONMENT, files=()))
    assert (policy.job_dir, policy.cache_path) == ("/jobs", "/cache")
    assert (policy.cache_bytes, policy.max_input_bytes, policy.max_input_pixels) == (1, 2, 3)
    assert (policy.max_upload_bytes, policy.download_tries, policy.upload_tries) == (4, 5, 6)
    assert (policy.upload_backoff_s, policy.progress_interval_s) == (7.0, 0.8)
    assert policy.trusted_urls == ("http://10.0.0.1:9000", "http://dev.example")
    assert policy.input_limits.max_bytes == 2


def test_by_default_inputs_are_cached_beside_the_jobs() -> None:
    policy = FilePolicy.of(load(FileSettings, environ={}, files=()))
    assert policy.cache_path == "/tmp/tensorhub/job/cache"
    assert policy.max_upload_bytes == 20 * 1024**3


@pytest.mark.claims("FILE_API_BASE_URL", "WORKER_CAPABILITY_TOKEN")
def test_the_hub_of_what_belongs_to_no_job() -> None:
    names = ["TENSORHUB_URL", "ORCHESTRATOR_HTTP_URL", "FILE_API_BASE_URL"]
    environ = {"WORKER_CAPABILITY_TOKEN": "secret"}
    for name in names:
        environ[name] = f"http://{name.lower()}"
        scope = JobScope.of(load(FileSettings, environ=environ, files=()))
        assert scope.base_url == environ[name]
        assert scope.has_hub
        assert "secret" not in repr(scope)
