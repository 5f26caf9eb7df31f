"""An HTTP host in a thread of its own, and what its functions say about themselves."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from gen_worker import Asset, RequestContext, inference, inference_function, invocable
from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    FatalError,
    HardwareUnmetError,
    OverloadedError,
    ResourceError,
    RetryableError,
)
from gen_worker.runtime import Engine, EngineLimits
from gen_worker.runtime.http import (
    HttpApp,
    HttpOptions,
    HttpServer,
    JobLimits,
    LocalBackend,
    LocalFileRoom,
    LocalModelRoom,
    open_listener,
    serve_app,
    url_of,
)
from gen_worker.runtime.local import local_ports
from gen_worker.runtime.loop import run
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.errors import Failure
    from gen_worker.events import Telemetry

TIMEOUT_S = 60.0
ERRORS: dict[str, Callable[[], Exception]] = {
    "value": lambda: ValueError("never this"),
    "retryable": lambda: RetryableError("later"),
    "overloaded": lambda: OverloadedError(retry_after_s=7.2),
    "hardware": lambda: HardwareUnmetError("no GPU"),
    "resource": lambda: ResourceError("no room"),
    "auth": lambda: AuthError("who?"),
    "transfer": lambda: ArtifactTransferError("lost"),
    "fatal": lambda: FatalError("over"),
    "other": lambda: RuntimeError("secret"),
}


class Text(msgspec.Struct):
    text: str = ""
    count: int = 1


class Picture(msgspec.Struct):
    image: Asset


class Facts(msgspec.Struct):
    size_bytes: int
    saved: Asset


class Stage:
    """What handlers say about themselves, and what they wait for."""

    def __init__(self) -> None:
        self.said: SimpleQueue[str] = SimpleQueue()
        self.go = threading.Event()
        self.gate = threading.Event()
        self.failures: list[Failure] = []
        self.yielded = 0
        self.setup_fails = False

    def expect(self, *words: str) -> None:
        heard = [self.said.get(timeout=TIMEOUT_S) for _ in words]
        assert heard == list(words)


def functions_of(stage: Stage) -> list[Any]:
    @inference_function(name="echo me")
    def echo(ctx: RequestContext, payload: Text) -> Text:
        return payload

    @inference_function
    async def whoami(ctx: RequestContext, payload: Text) -> Text:
        ctx.log("hello")
        ctx.emit("strange", {"file": "\udcff"})
        return Text(text=f"{ctx.request_id} {ctx.owner} {ctx.invoker_id}")

    @inference_function
    async def count(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
        """Count to a number."""
        for index in range(payload.count):
            stage.yielded = index
            yield Text(text=payload.text, count=index)

    @inference_function
    def count_slowly(ctx: RequestContext, payload: Text) -> Iterator[Text]:
        for index in range(payload.count):
            yield Text(text=payload.text, count=index)
            stage.said.put(f"yielded {index}")
            stage.go.wait(TIMEOUT_S)

    @inference_function
    async def hold(ctx: RequestContext, payload: Text) -> Text:
        stage.said.put("holding")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stage.said.put(str(ctx.cancel_token.reason))
            raise
        return payload

    @inference_function
    def block(ctx: RequestContext, payload: Text) -> Text:
        stage.said.put("blocking")
        ctx.cancel_token.wait()
        stage.said.put(str(ctx.cancel_token.reason))
        return payload

    @inference_function
    def gate(ctx: RequestContext, payload: Text) -> Text:
        stage.said.put("at the gate")
        stage.gate.wait(TIMEOUT_S)
        return payload

    @inference_function
    def fail(ctx: RequestContext, payload: Text) -> Text:
        raise ERRORS[payload.text]()

    @inference_function
    def look(ctx: RequestContext, payload: Picture) -> Facts:
        path = payload.image.local_path
        assert path is not None
        with open(path, "rb") as file:
            content = file.read()
        saved = ctx.save_bytes("copy.bin", content)
        return Facts(size_bytes=len(content), saved=saved)

    @inference
    class Fragile:
        def setup(self) -> None:
            if stage.setup_fails:
                raise ValueError("no weights")

        @invocable
        def use(self, ctx: RequestContext, payload: Text) -> Text:
            return payload

    return [value for name, value in locals().items() if name != "stage"]


class Host:
    """A running host."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.engine: Engine
        self.app: HttpApp
        self.url = ""
        self.ended_at = 0.0
        self._thread: threading.Thread | None = None

    def start(
        self,
        folder: Path,
        options: HttpOptions,
        engine_limits: EngineLimits,
        jobs: JobLimits,
        drain_s: float,
    ) -> None:
        class Silence:
            def emit(self, event: Telemetry) -> None:
                pass

        specs = [spec for function in functions_of(self.stage) for spec in specs_of(function)]
        ports = local_ports(events=Silence(), output_dir=str(folder), allow_local_files=False)
        listener = open_listener(TcpAddress("127.0.0.1", 0))
        self.url = url_of(listener)
        self.port = int(self.url.rpartition(":")[2])
        is_ready = threading.Event()

        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            self.engine = Engine(specs, ports, limits=engine_limits)
            backend = LocalBackend(
                self.engine,
                endpoint="demo",
                files=LocalFileRoom(ports.files),  # type: ignore[arg-type]
                models=LocalModelRoom(ports.models, specs),  # type: ignore[arg-type]
                jobs=jobs,
                max_queue=engine_limits.max_queue,
                report=self.stage.failures.append,
            )
            self.app = HttpApp(backend, options, report=self.stage.failures.append)
            await serve_app(self.app, listener, self._stop, ready=is_ready.set, drain_s=drain_s)
            self.ended_at = time.monotonic()
            await self.engine.close(1.0)

        self._thread = threading.Thread(target=lambda: run(main()))
        self._thread.start()
        assert is_ready.wait(TIMEOUT_S)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False, **options)

    def talk(self, data: bytes = b"") -> socket.socket:
        """Open a connection of one's own and send bytes on it."""
        peer = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)
        try:
            peer.sendall(data)
        except BaseException:
            peer.close()
            raise
        return peer

    def post(self, path: str, body: bytes = b"{}", *headers: str) -> socket.socket:
        """Send one request on a connection of its own."""
        head = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
        return self.talk("\r\n".join([*head, *headers, "", ""]).encode() + body)

    @staticmethod
    def events(text: str) -> list[tuple[int, str, Any]]:
        """Read a stream of events: id (0 without one), name, data."""
        found = []
        for block in text.split("\n\n"):
            lines = [line for line in block.splitlines() if line and line[0] != ":"]
            fields = dict(line.split(": ", 1) for line in lines)
            if fields:
                data = msgspec.json.decode(fields["data"])
                found.append((int(fields.get("id", 0)), fields["event"], data))
        return found

    def settles(self) -> None:
        """Wait until nothing runs and nothing waits any more."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            figures = self.engine.statistics()
            if not (figures.running or figures.queued or self.app.idle_s == 0.0):
                return
            assert time.monotonic() < deadline, figures
            time.sleep(0.005)

    def begin_stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def wait(self) -> None:
        assert self._thread is not None
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "the host did not stop"

    def stop(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self.begin_stop()
            self.wait()


@contextmanager
def running_host(
    folder: Path,
    options: HttpOptions | None = None,
    *,
    engine: EngineLimits | None = None,
    jobs: JobLimits | None = None,
    drain_s: float = 5.0,
) -> Iterator[Host]:
    stage = Stage()
    host = Host(stage)
    try:
        host.start(
            folder,
            options or HttpOptions(is_loopback=True),
            engine or EngineLimits(),
            jobs or JobLimits(),
            drain_s,
        )
        yield host
    finally:
        stage.go.set()
        stage.gate.set()
        host.stop()


@contextmanager
def running_server(app: Any, listener: socket.socket, **limits: float) -> Iterator[HttpServer]:
    server = HttpServer(app, listener, **limits)
    is_ready = threading.Event()
    thread = threading.Thread(target=lambda: run(server.serve(is_ready.set)))
    thread.start()
    try:
        assert is_ready.wait(TIMEOUT_S)
        yield server
    finally:
        server.stop()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


RunServer = Callable[..., AbstractContextManager[HttpServer]]
"""Serves any application in a thread; see `running_server`."""


@pytest.fixture(scope="session")
def run_server() -> RunServer:
    return running_server


RunHost = Callable[..., AbstractContextManager[Host]]
"""Runs a host on a folder of outputs; see `running_host`."""


@pytest.fixture(scope="session")
def run_host() -> RunHost:
    return running_host


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One host for all tests of a module that leave no trace."""
    with running_host(tmp_path_factory.mktemp("outputs")) as host:
        yield host


@pytest.fixture(scope="module")
def client(host: Host) -> Iterator[httpx.Client]:
    with host.client() as client:
        yield client
