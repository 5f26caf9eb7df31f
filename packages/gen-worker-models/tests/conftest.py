"""Fixtures that several rooms share."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.models.hub import HubClient, LocalHub

Behaviour = Callable[["Asked"], None]


class Asked:
    """One request as the scripted server got it, and the means to answer it badly."""

    def __init__(
        self, server: ScriptedServer, sock: socket.socket, line: str, headers: dict[str, str]
    ) -> None:
        self.server = server
        self.sock = sock
        self.method, self.target = line.split(" ")[:2]
        self.path = self.target.partition("?")[0]
        self.headers = headers
        self.body = b""
        self.stays_open = True
        self.data = server.files.get(self.path, b"")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        self.is_ranged = match is not None
        self.start = int(match[1]) if match else 0
        self.stop = int(match[2]) + 1 if match and match[2] else len(self.data)

    def head(self, status: int, **headers: object) -> None:
        """Send a status line and headers; `_` in a name stands for `-`."""
        lines = [f"HTTP/1.1 {status} X"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def send(self, data: bytes) -> None:
        with self.server.sending(len(data)):
            self.sock.sendall(data)

    def cut(self) -> None:
        """Reset the connection."""
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stays_open = False

    def serve(self, *, most: int | None = None, flip: int | None = None) -> None:
        """Answer as a good server would.

        Args:
            most: Send so many bytes of the body, then close the connection.
            flip: Damage the byte at this offset of the file.
        """
        if self.path not in self.server.files:
            self.head(404, Content_Length=0)
            return
        if self.is_ranged and self.start >= len(self.data):
            self.head(416, Content_Length=0)
            return
        data = bytearray(self.data)
        if flip is not None:
            data[flip] ^= 0xFF
        stop = min(self.stop, len(data))
        size = stop - self.start
        span = f"bytes {self.start}-{stop - 1}/{len(data)}"
        if self.is_ranged:
            self.head(206, Content_Length=size, Content_Range=span)
        else:
            self.head(200, Content_Length=size)
        if self.method != "HEAD":
            self.send(bytes(data[self.start : stop if most is None else self.start + most]))
        if most is not None and most < size:
            self.stays_open = False

    def whole(self) -> None:
        """Ignore the range."""
        self.head(200, Content_Length=len(self.data))
        self.send(self.data)


class ScriptedServer:
    """An HTTP/1.1 server on loopback that does what a test tells it to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.connections = 0
        self.default: Behaviour = Asked.serve
        self.released = threading.Event()
        """Behaviours that stall wait for it; set when the server closes."""
        self._plans: dict[str, list[Behaviour]] = {}
        self._lock = threading.Lock()
        self.bytes_sent = 0
        self._senders = 0
        self._sent = threading.Condition(self._lock)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self._spawn(self._accept)

    def url(self, path: str) -> str:
        return self.origin + path

    def plan(self, path: str, *behaviours: Behaviour) -> None:
        """Answer the next requests for `path` in these ways, and later ones as usual."""
        with self._lock:
            self._plans.setdefault(path, []).extend(behaviours)

    @contextmanager
    def sending(self, size: int) -> Iterator[None]:
        """Count bytes once they were handed over whole."""
        with self._lock:
            self._senders += 1
        try:
            yield
            with self._lock:
                self.bytes_sent += size
        finally:
            with self._sent:
                self._senders -= 1
                self._sent.notify_all()

    def settled(self) -> ScriptedServer:
        """Wait until what clients have got is counted: they may be ahead of the sender."""
        with self._sent:
            assert self._sent.wait_for(lambda: not self._senders, 60)
        return self

    def asked_for(self, path: str) -> list[Asked]:
        with self._lock:
            return [one for one in self.asked if one.path == path]

    def close(self) -> None:
        self.released.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)

    def _spawn(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            self._spawn(self._talk, sock)

    def _talk(self, sock: socket.socket) -> None:
        with suppress(OSError, ValueError), sock:
            with sock.makefile("rb") as file:
                while (asked := self._read(sock, file)) is not None:
                    self._behaviour(asked.path)(asked)
                    if not asked.stays_open:
                        break
        with self._lock:
            self._open.discard(sock)

    def _read(self, sock: socket.socket, file: Any) -> Asked | None:
        line = file.readline().decode("latin-1").strip()
        if not line:
            return None
        headers = {}
        while text := file.readline().decode("latin-1").strip():
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        asked = Asked(self, sock, line, headers)
        asked.body = file.read(int(headers.get("content-length", 0)))
        with self._lock:
            self.asked.append(asked)
        return asked

    def _behaviour(self, path: str) -> Behaviour:
        with self._lock:
            plan = self._plans.get(path)
            return plan.pop(0) if plan else self.default


@pytest.fixture(scope="module")
def start_server() -> Iterator[Callable[[], ScriptedServer]]:
    """Start servers that follow a script; they are closed with the module."""
    servers: list[ScriptedServer] = []

    def start() -> ScriptedServer:
        servers.append(ScriptedServer())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def server(start_server: Callable[[], ScriptedServer]) -> Iterator[ScriptedServer]:
    server = start_server()
    yield server
    server.close()


class RunningHub(NamedTuple):
    """A hub that listens on the loopback interface."""

    hub: LocalHub
    url: str

    def client(self, *scopes: str, **options: Any) -> HubClient:
        """Return a client whose token has these scopes; without any it may do everything."""
        from gen_worker.models.hub import HubClient

        return HubClient(self.url, self.hub.issue_token(*(scopes or ("admin",))), **options)


class AppServer:
    """Runs an ASGI application in a thread."""

    def __init__(self, app: Any) -> None:
        import uvicorn

        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))


@contextmanager
def running_hubs(folder: Path) -> Iterator[Callable[..., RunningHub]]:
    """Give a function that starts hubs below `folder`; they are stopped at the end."""
    from gen_worker.models.hub import HubOptions, LocalHub

    running: list[tuple[AppServer, LocalHub]] = []

    def start(directory: str = "hub", **arguments: Any) -> RunningHub:
        names = set(arguments) & set(HubOptions.__struct_fields__)
        options = HubOptions(**{name: arguments.pop(name) for name in names})
        hub = LocalHub(folder / directory, options=options, **arguments)
        server = AppServer(hub.app)
        running.append((server, hub))
        return RunningHub(hub, server.url)

    try:
        yield start
    finally:
        for server, hub in running:
            server.close()
            hub.close()


@pytest.fixture
def serve_hub(tmp_path: Path) -> Iterator[Callable[..., RunningHub]]:
    """Start hubs; keyword arguments are those of `LocalHub`, or fields of its options."""
    with running_hubs(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def module_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """A hub that all tests of a module share, with parts of 64 KiB."""
    with running_hubs(tmp_path_factory.mktemp("module")) as start:
        yield start(part_bytes=64 * 1024)


@pytest.fixture
def hub(serve_hub: Callable[..., RunningHub]) -> RunningHub:
    """A hub with small parts, so that small files have several."""
    return serve_hub(part_bytes=64 * 1024)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make tiny real models, each once: `models("stable_diffusion", dtype="bfloat16")`."""
    from gen_worker.models import tiny

    root = tmp_path_factory.mktemp("models")

    def make(name: str, **options: Any) -> Path:
        words = "-".join(f"{key}={value}" for key, value in options.items())
        path = root / f"{name}-{words}"
        if not path.exists():
            getattr(tiny, f"tiny_{name}")(path, **options)
        return path

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: on a busy machine more of them wait for each other."""
    torch: Any = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
