"""What the files of a worker talk to: a hub, and web servers that follow a script."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import uvicorn

from gen_worker.events import Emitted, Telemetry
from gen_worker.models.hub import HubOptions, LocalHub
from gen_worker.runtime.files import FilePolicy, JobScope, WorkerFiles

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.ports import Events

PART = 64 * 1024


class Asked:
    """One request as a server got it, and the means to answer it."""

    def __init__(self, sock: socket.socket, line: str, headers: dict[str, str]) -> None:
        self.sock = sock
        self.method, self.target = line.split(" ")[:2]
        self.path = self.target.partition("?")[0]
        self.headers = headers
        self.body = b""
        self.stays_open = True

    def head(self, status: int, **headers: object) -> None:
        """Send a status line and headers; `_` in a name stands for `-`."""
        lines = [f"HTTP/1.1 {status} X"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def answer(self, data: bytes, status: int = 200, **headers: Any) -> None:
        self.head(status, **{"Content_Length": len(data), **headers})
        if self.method != "HEAD":
            self.sock.sendall(data)


Behaviour = Callable[[Asked], object]


class WebServer:
    """An HTTP/1.1 server on loopback that does what a test tells it to."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.pages: dict[str, Behaviour] = {}
        self.released = threading.Event()
        """Behaviours that stall wait for it; set when the server closes."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._accept)

    def page(self, path: str, behaviour: Behaviour | bytes, **headers: Any) -> str:
        """Serve something at a path, and return its URL."""
        if isinstance(behaviour, bytes):
            data = behaviour
            self.pages[path] = lambda asked: asked.answer(data, **headers)
        else:
            self.pages[path] = behaviour
        return self.origin + path

    def script(self, path: str, *behaviours: Behaviour) -> str:
        """Do one thing after the other at a path; the last one for good."""
        left: list[Behaviour] = list(behaviours)

        def behave(asked: Asked) -> None:
            now = left.pop(0) if len(left) > 1 else left[0]
            now(asked)

        return self.page(path, behave)

    def count(self, method: str = "GET") -> int:
        with self._lock:
            return sum(one.method == method for one in self.asked)

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
            thread.join(10)

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
                self._open.add(sock)
            self._spawn(self._talk, sock)

    def _talk(self, sock: socket.socket) -> None:
        with suppress(OSError), sock, sock.makefile("rb") as file:
            while (asked := self._read(sock, file)) is not None:
                page = self.pages.get(asked.path)
                if page is None:
                    asked.answer(b"", 404)
                else:
                    page(asked)
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
        asked = Asked(sock, line, headers)
        asked.body = file.read(int(headers.get("content-length", 0)))
        with self._lock:
            self.asked.append(asked)
        return asked


@contextmanager
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    try:
        yield server
    finally:
        server.close()


class Hub:
    """A hub that listens on loopback, and what a job of `acme` needs to use it."""

    def __init__(self, hub: LocalHub, url: str) -> None:
        self.local = hub
        self.url = url

    def scope(self, *, job_id: str = "job-1", owner: str = "acme", **claims: Any) -> JobScope:
        hints = claims.pop("hints", {})
        token = self.local.issue_capability(**{"publish": [f"{owner}/model"], **claims})
        return JobScope(
            base_url=self.url, capability_token=token, owner=owner, job_id=job_id, hints=hints
        )


@contextmanager
def running_hub(folder: Path, **options: Any) -> Iterator[Hub]:
    """Run a hub with small parts in a thread."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    with LocalHub(folder, options=HubOptions(**{"part_bytes": PART, **options})) as hub:
        config = uvicorn.Config(hub.app, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield Hub(hub, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


class Told:
    """Events of requests, as they come."""

    def __init__(self) -> None:
        self.events: list[Emitted] = []

    def emit(self, event: Telemetry) -> None:
        if isinstance(event, Emitted):
            self.events.append(event)

    def stages(self) -> list[str]:
        return [event.payload["stage"] for event in self.events]


class MakeFiles(Protocol):
    """Makes the files of a worker; keywords are fields of the policy."""

    def __call__(
        self, *, told: Events | None = None, default: JobScope | None = None, **policy: Any
    ) -> WorkerFiles: ...


@contextmanager
def making_files(folder: Path) -> Iterator[MakeFiles]:
    """Give what makes files below `folder`; at the end, nothing is left of any request."""
    made: list[WorkerFiles] = []

    def make(
        *, told: Events | None = None, default: JobScope | None = None, **policy: Any
    ) -> WorkerFiles:
        chosen = FilePolicy(
            **{
                "job_dir": str(folder / "jobs"),
                "cas_dir": str(folder / "cas"),
                "download_backoff_s": 0.01,
                **policy,
            }
        )
        made.append(WorkerFiles(chosen, told or Told(), default=default))
        return made[-1]

    yield make
    for files in made:
        files.close()
    assert not list((folder / "jobs").glob("worker-*"))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def every_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's client report each piece of an upload, so that something can happen then."""
    monkeypatch.setattr("gen_worker.models.hub.progress._INTERVAL_S", 0.0)


@pytest.fixture
def make_files(tmp_path: Path) -> Iterator[MakeFiles]:
    with making_files(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def shared_web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def web(shared_web: WebServer) -> WebServer:
    """A server that all tests of a module share."""
    shared_web.asked.clear()
    return shared_web


@pytest.fixture(scope="module")
def shared_other_web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def other_web(shared_other_web: WebServer) -> WebServer:
    """Another one, at an origin of its own."""
    shared_other_web.asked.clear()
    return shared_other_web


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub that all tests of a module share."""
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub
