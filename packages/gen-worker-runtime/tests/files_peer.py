"""What the files of a worker talk to: a hub, and web servers that follow a script."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import uvicorn

from gen_worker.events import Emitted, Telemetry
from gen_worker.models.hub import HubOptions, LocalHub
from gen_worker.runtime.files import FilePolicy, JobScope, WorkerFiles

if TYPE_CHECKING:
    from pathlib import Path

PART = 64 * 1024
PNG = (
    b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\x0dIHDR" + b"\x00\x00\x00\x40\x00\x00\x00\x20" + bytes(40)
)


class Asked:
    """One request as a server got it, and the means to answer it."""

    def __init__(self, sock: socket.socket, line: str, headers: dict[str, str]) -> None:
        self.sock = sock
        self.method, self.target = line.split(" ")[:2]
        self.path = self.target.partition("?")[0]
        self.headers = headers
        self.stays_open = True

    def head(self, status: int, **headers: object) -> None:
        """Send a status line and headers; `_` in a name stands for `-`."""
        lines = [f"HTTP/1.1 {status} X"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def answer(self, data: bytes, status: int = 200, **headers: object) -> None:
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

    def page(self, path: str, behaviour: Behaviour | bytes, **headers: object) -> str:
        """Serve something at a path, and return its URL."""
        if isinstance(behaviour, bytes):
            data = behaviour
            self.pages[path] = lambda asked: asked.answer(data, **headers)
        else:
            self.pages[path] = behaviour
        return self.origin + path

    def script(self, path: str, *behaviours: Behaviour) -> str:
        """Do one thing after the other at a path; the last one for good."""
        left = list(behaviours)
        return self.page(path, lambda asked: (left.pop(0) if len(left) > 1 else left[0])(asked))

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
                self.pages.get(asked.path, lambda one: one.answer(b"", 404))(asked)
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


@contextmanager
def worker_files(
    folder: Path, *, told: Told | None = None, default: JobScope | None = None, **policy: Any
) -> Iterator[WorkerFiles]:
    """Make the files of one worker below `folder`, and check that nothing stays of requests."""
    chosen = FilePolicy(**{"job_dir": str(folder / "jobs"), **policy})
    files = WorkerFiles(chosen, told or Told(), default=default)
    try:
        yield files
    finally:
        files.close()
        left = [path for path in (folder / "jobs").glob("worker-*")] if folder.exists() else []
        assert not left
