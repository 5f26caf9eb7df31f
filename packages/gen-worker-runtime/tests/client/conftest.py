"""A host that listens, a network that breaks, and both clients behind one face."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator  # noqa: TC003  # evaluated
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import Asset, RequestContext, inference_function
from gen_worker.client import AsyncClient, AsyncFile, AsyncRequest, Client, RetryPolicy
from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    FatalError,
    HardwareUnmetError,
    OverloadedError,
    ResourceError,
    RetryableError,
)
from gen_worker.runtime import Engine
from gen_worker.runtime.http import (
    HttpApp,
    HttpOptions,
    JobLimits,
    LocalBackend,
    LocalFileRoom,
    open_listener,
    serve_app,
    url_of,
)
from gen_worker.runtime.local import local_ports
from gen_worker.runtime.loop import run
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.spec import specs_of
from gen_worker.testing.cable import Cable
from gen_worker.testing.loop_thread import LoopThread

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.events import Telemetry

TIMEOUT_S = 60.0
QUICK = RetryPolicy(attempts=30, call_attempts=3, first_s=0.001, max_s=0.01)
ERRORS: dict[str, Callable[[], Exception]] = {
    "value": lambda: ValueError("not this"),
    "hardware": lambda: HardwareUnmetError("no GPU"),
    "resource": lambda: ResourceError("no room"),
    "auth": lambda: AuthError("who?"),
    "transfer": lambda: ArtifactTransferError("lost"),
    "fatal": lambda: FatalError("over"),
    "other": lambda: RuntimeError("secret"),
    "retryable": lambda: RetryableError("later"),
    "overloaded": lambda: OverloadedError(retry_after_s=0.05),
}


class Text(msgspec.Struct):
    text: str = ""
    count: int = 1


class Picture(msgspec.Struct):
    image: Asset
    other: Asset | None = None


class Facts(msgspec.Struct):
    content: str
    saved: Asset


class Yielded(msgspec.Struct):
    yielded: int


class Stage:
    """What handlers say about themselves, and what they wait for."""

    def __init__(self) -> None:
        self.said: SimpleQueue[str] = SimpleQueue()
        self.gate = threading.Event()
        self.runs: Counter[str] = Counter()
        self.failures_left = 0
        self.running = 0
        self.most_running = 0

    def expect(self, *words: str) -> None:
        heard = [self.said.get(timeout=TIMEOUT_S) for _ in words]
        assert heard == list(words)


def functions_of(stage: Stage) -> list[Any]:
    @inference_function(description="Return what came.")
    async def echo(ctx: RequestContext, payload: Text) -> Text:
        stage.runs[payload.text] += 1
        return payload

    @inference_function
    async def count(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
        """Count to a number."""
        stage.runs[payload.text] += 1
        for index in range(payload.count):
            yield Text(text="x" * (index % 7) * 10, count=index)

    @inference_function
    async def count_and_stay(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
        for index in range(payload.count):
            yield Text(count=index)
        stage.said.put("staying")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stage.said.put(str(ctx.cancel_token.reason))
            raise

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
    async def hold_all_but_0(ctx: RequestContext, payload: Text) -> Text:
        if payload.count == 0:
            await asyncio.to_thread(stage.gate.wait, TIMEOUT_S)
        else:
            stage.said.put("holding")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stage.said.put(str(ctx.cancel_token.reason))
                raise
        return payload

    @inference_function
    def gated(ctx: RequestContext, payload: Text) -> Text:
        stage.runs[payload.text] += 1
        stage.running += 1
        stage.most_running = max(stage.most_running, stage.running)
        stage.said.put(payload.text)
        stage.gate.wait(TIMEOUT_S)
        stage.running -= 1
        return payload

    @inference_function
    async def fail(ctx: RequestContext, payload: Text) -> Text:
        stage.runs[payload.text] += 1
        raise ERRORS[payload.text]()

    @inference_function
    async def flaky(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
        stage.runs[payload.text] += 1
        if stage.failures_left:
            stage.failures_left -= 1
            raise RetryableError("later")
        yield payload

    @inference_function
    async def report(ctx: RequestContext, payload: Text) -> Text:
        ctx.progress(0.5, stage="half")
        ctx.log("hello")
        return payload

    @inference_function
    async def odd(ctx: RequestContext, payload: Text) -> Yielded:
        return Yielded(payload.count)

    @inference_function
    def look(ctx: RequestContext, payload: Picture) -> Facts:
        with payload.image.open() as file:
            content = file.read()
        saved = ctx.save_bytes("copy.bin", content)
        return Facts(content=content[:5].decode(), saved=saved)

    return [value for name, value in locals().items() if name != "stage"]


class Host:
    """A running host."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage()
        self.folder = folder
        self.app: HttpApp
        listener = open_listener(TcpAddress("127.0.0.1", 0))
        self.url = url_of(listener)
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener,))

    def _run(self, listener: Any) -> None:
        try:
            run(self._main(listener))
        finally:
            self._is_ready.set()

    async def _main(self, listener: Any) -> None:
        class Silence:
            def emit(self, event: Telemetry) -> None:
                pass

        specs = [spec for function in functions_of(self.stage) for spec in specs_of(function)]
        ports = local_ports(events=Silence(), output_dir=str(self.folder), allow_local_files=False)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        engine = Engine(specs, ports)
        backend = LocalBackend(
            engine,
            endpoint="demo",
            files=LocalFileRoom(ports.files),  # type: ignore[arg-type]
            jobs=JobLimits(),
        )
        self.app = HttpApp(backend, HttpOptions(is_loopback=True, ping_s=0.2))
        await serve_app(self.app, listener, self._stop, ready=self._is_ready.set, drain_s=5.0)
        await engine.close(1.0)

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def uploads(self) -> list[Path]:
        """Every file that was uploaded."""
        return sorted(self.folder.glob("jobs/upload-*/inputs/*"))

    def start(self) -> None:
        self._thread.start()
        assert self._is_ready.wait(TIMEOUT_S)
        assert self._thread.is_alive(), "the host did not start"

    def stop(self) -> None:
        self.stage.gate.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "the host did not stop"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path / "host")
    host.start()
    yield host
    host.stop()


class Network:
    """A cable to a host, which breaks when it is told to."""

    def __init__(self, loop: LoopThread, cable: Cable) -> None:
        self._loop = loop
        self.cable = cable
        self.url = f"http://{cable.address}"

    def cut(self) -> None:
        self._loop.call(self.cable.cut)

    def cut_after(self, more_bytes: int) -> None:
        self._loop.call(lambda: self.cable.cut_after(more_bytes))

    def refuse(self, is_refusing: bool) -> None:
        self.cable.is_refusing = is_refusing


@pytest.fixture
def network(host: Host) -> Iterator[Network]:
    loop = LoopThread("network")
    cable = Cable(host.address)

    async def enter() -> None:
        await cable.__aenter__()

    async def leave() -> None:
        await cable.__aexit__(None, None, None)

    loop.wait(enter())
    yield Network(loop, cable)
    loop.wait(leave())
    loop.close()


class Awaited:
    """An async object as a blocking one: awaits what its methods return, and iterates."""

    def __init__(self, target: Any, loop: LoopThread) -> None:
        self._target = target
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self._target)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return self._wrapped(value) if not callable(value) else self._called(value)

    def _called(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            async def on_loop() -> Any:
                result = method(*arguments, **options)
                return await result if inspect.isawaitable(result) else result

            return self._wrapped(self._loop.wait(on_loop()))

        return call

    def _wrapped(self, value: Any) -> Any:
        if inspect.isasyncgen(value):
            return self._items(value)
        is_ours = isinstance(value, (AsyncFile, AsyncRequest))
        return Awaited(value, self._loop) if is_ours else value

    def _items(self, items: Any) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(items, _END)

        try:
            while (item := self._loop.wait(following())) is not _END:
                yield item
        finally:
            self._loop.wait(items.aclose())


_END = object()


class Open:
    """Opens clients; the tests that take it run once with each kind."""

    def __init__(self, is_async: bool, stack: ExitStack) -> None:
        self.is_async = is_async
        self._stack = stack
        self._loop: LoopThread | None = None

    def __call__(self, url: str, **options: Any) -> Any:
        options = {"retry": QUICK, "silence_s": 30.0, **options}
        if not self.is_async:
            return self._stack.enter_context(Client(url, **options))
        if self._loop is None:
            self._loop = LoopThread("client")
            self._stack.callback(self._loop.close)

        async def make() -> AsyncClient:
            return AsyncClient(url, **options)

        client = Awaited(self._loop.wait(make()), self._loop)
        self._stack.callback(client.aclose)
        return client


@pytest.fixture(params=["blocking", "async"])
def open_client(request: pytest.FixtureRequest) -> Iterator[Open]:
    with ExitStack() as stack:
        yield Open(request.param == "async", stack)


@pytest.fixture
def client(host: Host, open_client: Open) -> Any:
    """A client of the host."""
    return open_client(host.url)
