"""A real NDJSON server and its clients, a worker, and who publishes the keys of tokens."""

import asyncio
import inspect
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
import pytest
import uvloop

from gen_worker import RequestContext, inference_function
from gen_worker.events import Telemetry
from gen_worker.runtime import Engine, EngineLimits
from gen_worker.runtime.local import local_ports
from gen_worker.runtime.loop import run
from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress
from gen_worker.runtime.ndjson.claim import Claim, claim
from gen_worker.runtime.ndjson.server import Server, ServerLimits
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from gen_worker.runtime.worker.worker import Worker
    from gen_worker.testing.orchestrator import Orchestrator

TIMEOUT_S = 60.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that are coroutines on the loop that workers and servers run on."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    run(pyfuncitem.obj(**arguments))
    return True


class Text(msgspec.Struct):
    text: str = ""
    count: int = 1


class Stage:
    """What handlers say about themselves, and what they wait for."""

    def __init__(self) -> None:
        self.said: SimpleQueue[str] = SimpleQueue()
        self.go = threading.Event()

    def expect(self, *words: str) -> None:
        heard = [self.said.get(timeout=TIMEOUT_S) for _ in words]
        assert heard == list(words)


def functions_of(stage: Stage) -> list[object]:
    @inference_function
    def echo(ctx: RequestContext, payload: Text) -> Text:
        return payload

    @inference_function
    async def echo_async(ctx: RequestContext, payload: Text) -> Text:
        return payload

    @inference_function
    def whoami(ctx: RequestContext, payload: Text) -> Text:
        return Text(text=ctx.request_id)

    @inference_function
    def count(ctx: RequestContext, payload: Text) -> Iterator[Text]:
        for index in range(payload.count):
            yield Text(text=payload.text, count=index)

    @inference_function
    async def count_async(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
        for index in range(payload.count):
            yield Text(text=payload.text, count=index)

    @inference_function
    async def hold(ctx: RequestContext, payload: Text) -> Text:
        stage.said.put(f"holding {payload.text}".strip())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stage.said.put(f"{ctx.cancel_token.reason} {payload.text}".strip())
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
        stage.go.wait(TIMEOUT_S)
        return payload

    @inference_function
    def fail(ctx: RequestContext, payload: Text) -> Text:
        raise RuntimeError(payload.text)

    @inference_function
    def refuse(ctx: RequestContext, payload: Text) -> Text:
        raise ValueError("no \udcff here")

    @inference_function
    def chatter(ctx: RequestContext, payload: Text) -> Iterator[Text]:
        ctx.log("hello")
        yield Text(text="a")
        ctx.progress(0.5, stage="half")
        ctx.emit("strange", {"file": "\udcff"})

    return [value for name, value in locals().items() if name != "stage"]


class Talk:
    """One connection."""

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.file = peer.makefile("rb")

    def send(self, *frames: dict[str, Any] | bytes) -> Self:
        """Send frames, or bytes as they are, in one write."""
        lines = [f if isinstance(f, bytes) else msgspec.json.encode(f) + b"\n" for f in frames]
        self.socket.sendall(b"".join(lines))
        return self

    def line(self) -> dict[str, Any]:
        line = self.file.readline()
        assert line, "the server closed the connection"
        return msgspec.json.decode(line, type=dict[str, Any])

    def lines(self) -> list[dict[str, Any]]:
        """Return everything up to the server's end."""
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in self.file]

    def answer(self) -> list[dict[str, Any]]:
        """Return the lines of one answer."""
        lines = [self.line()]
        while "ok" not in lines[-1]:
            lines.append(self.line())
        return lines

    def end_input(self) -> Self:
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Running:
    """A server that runs until the test ends."""

    def __init__(self, listening: Claim, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.claim = listening
        self.address = listening.address
        self.failures: list[Any] = []
        self.engine: Engine
        self.server: Server
        self._new_loop = loop
        self._talks: list[Talk] = []
        self._thread: threading.Thread | None = None

    def start(self, stage: Stage, limits: EngineLimits, options: dict[str, Any]) -> None:
        class Silence:
            def emit(self, event: Telemetry) -> None:
                pass

        specs = [spec for function in functions_of(stage) for spec in specs_of(function)]
        is_ready = threading.Event()

        async def main() -> None:
            self.engine = Engine(specs, local_ports(events=Silence()), limits=limits)
            self.server = Server(self.engine, report=self.failures.append, **options)
            self._loop = asyncio.get_running_loop()
            self._end = asyncio.Event()
            await self.server.listen(self.claim.listener)
            is_ready.set()
            await self._end.wait()
            await self.server.close()
            await self.engine.close()

        def run() -> None:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                runner.run(main())

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert is_ready.wait(TIMEOUT_S)

    def talk(self) -> Talk:
        if isinstance(self.address, TcpAddress):
            peer = socket.create_connection(self.address)
        else:
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(self.address.path)
        peer.settimeout(TIMEOUT_S)
        talk = Talk(peer)
        self._talks.append(talk)
        return talk

    def ask(self, function: str, payload: object = None, **keys: Any) -> list[dict[str, Any]]:
        """Make one request on a connection of its own; return every line of the answer."""
        return self.talk().send({"function": function, "payload": payload, **keys}).lines()

    def on_loop(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Keep the loop from turning: nobody is accepted, and nothing read, within the block."""
        is_stalled, may_go = threading.Event(), threading.Event()

        def stall() -> None:
            is_stalled.set()
            may_go.wait(TIMEOUT_S)

        self.on_loop(stall)
        assert is_stalled.wait(TIMEOUT_S)
        try:
            yield
        finally:
            may_go.set()

    def begin_stop(self) -> None:
        with suppress(RuntimeError):  # the loop may be closed already, by an earlier call
            self._loop.call_soon_threadsafe(self._end.set)

    def stop(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self.begin_stop()
            self._thread.join(TIMEOUT_S)
            assert not self._thread.is_alive(), "the server did not stop"
        for talk in self._talks:
            talk.close()
        self.claim.release()


class Serve(Protocol):
    """Starts a server; keyword arguments are those of `Server` and `ServerLimits`."""

    def __call__(
        self, *, tcp: bool = False, engine: EngineLimits = ..., token: str = "", **limits: Any
    ) -> Running: ...


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.go.set()


@pytest.fixture
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Make the loop servers run on; modules may parametrize it."""
    is_plain = getattr(request, "param", "uvloop") == "asyncio"
    return asyncio.new_event_loop if is_plain else uvloop.new_event_loop


@pytest.fixture
def serve(
    new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path, stage: Stage
) -> Iterator[Serve]:
    running: list[Running] = []

    def start(
        *,
        tcp: bool = False,
        engine: EngineLimits | None = None,
        token: str = "",
        **limits: Any,
    ) -> Running:
        path = str(tmp_path / f"{len(running)}.sock")
        listening = claim(TcpAddress("127.0.0.1", 0) if tcp else UnixAddress(path))
        server = Running(listening, new_loop)
        running.append(server)
        options = {"token": token, "limits": ServerLimits(**limits)}
        server.start(stage, engine or EngineLimits(), options)
        return server

    yield start
    stage.go.set()
    for server in running:
        server.stop()


class Work(Protocol):
    """Runs a worker until the block ends; keywords are `WorkerOptions`' and `Worker`'s own."""

    def __call__(
        self, orchestrator: "Orchestrator", *endpoints: object, **options: Any
    ) -> "AbstractAsyncContextManager[Worker]": ...


@pytest.fixture
def work() -> Work:
    from gen_worker.runtime.worker.addresses import parse_address
    from gen_worker.runtime.worker.backoff import Backoff
    from gen_worker.runtime.worker.states import LinkPolicy
    from gen_worker.runtime.worker.worker import Worker, WorkerOptions

    parts = ("manifest", "make_ports", "outbox_limits", "read_token", "clock")

    @asynccontextmanager
    async def start(
        orchestrator: "Orchestrator", *endpoints: object, **options: Any
    ) -> AsyncIterator[Worker]:
        policy = LinkPolicy(
            seeds=(parse_address(orchestrator.address),),
            backoff=Backoff(0.01, 0.05, 0.0),
            grace_s=0.05,
        )
        specs = [spec for endpoint in endpoints for spec in specs_of(endpoint)]
        own = {name: options.pop(name) for name in parts if name in options}
        options = {"token": "a-token", "heartbeat_s": 0.05, **options}
        worker = Worker(specs, policy, WorkerOptions(**options), **own)
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            await worker.link.leave(0.0)
            await task

    return start


class Issuer:
    """An HTTP server that publishes keys, and what signs with them."""

    def __init__(self) -> None:
        issuer = self
        self.keys: list[dict[str, Any]] = []
        self.body: bytes | None = None
        self.status = 200
        self.requests: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests.append(self.path)
                issuer.may_answer.wait(30)
                body = issuer.body
                if body is None:
                    body = json.dumps({"keys": issuer.keys}).encode()
                with suppress(OSError):  # whoever asked may be gone
                    self.send_response(issuer.status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json?secret=TOPSECRET"

    def publish(self, key: "RSAPrivateKey", key_id: str | None, **more: Any) -> None:
        """Add the public half of a key to what is published."""
        import jwt

        published = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
        named = {} if key_id is None else {"kid": key_id}
        self.keys.append({**published, **named, **more})

    def close(self) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def keys() -> "tuple[RSAPrivateKey, RSAPrivateKey]":
    """Keys of those who sign tokens."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    first, second = (generate_private_key(public_exponent=65537, key_size=2048) for _ in "12")
    return first, second


@pytest.fixture
def issuer(keys: "tuple[RSAPrivateKey, RSAPrivateKey]") -> Iterator[Issuer]:
    """One that publishes the first key."""
    issuer = Issuer()
    issuer.publish(keys[0], "one", use="sig", alg="RS256")
    yield issuer
    issuer.close()
