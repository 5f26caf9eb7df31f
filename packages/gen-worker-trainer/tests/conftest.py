"""Real peers of a training job: a hub, and a server that holds files and is told of things."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import defaultdict, deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from gen_worker.models.hub import HubClient, HubOptions, LocalHub
from gen_worker.models.settings import ModelSettings
from gen_worker.runtime.http import HttpServer, open_listener
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.testing.loop_thread import LoopThread
from gen_worker.trainer.config import places_of, resolve
from gen_worker.trainer.job_file import parse_job
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gen_worker.trainer.config import RunConfig

Behaviour = int | Literal["hang", "cut", "close"]
"""A status; silence; an answer that ends halfway; a connection that is closed without one."""


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told


class Peer:
    """An HTTP server on loopback: `files` are served, also in parts; posts are taken in."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.plans: defaultdict[str, deque[Behaviour]] = defaultdict(deque)
        """By path: how the next requests are answered; later ones are as they should."""
        self.asked: list[Asked] = []
        self.arrived = threading.Condition()
        self.released = threading.Event()
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                peer._serve(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients may leave."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def at(self, path: str, method: str = "POST") -> list[Asked]:
        with self.arrived:
            return [one for one in self.asked if one.path == path and one.method == method]

    def wait_for(self, path: str, count: int) -> list[Asked]:
        """Wait for so many posts to a path."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.at(path)) >= count, 60)
            return self.at(path)

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in request.headers.items()}
        path = request.path
        with self.arrived:
            self.asked.append(Asked(request.command, path, headers, body))
            plan = self.plans[path]
            behaviour: Behaviour = plan.popleft() if plan else 200
            self.arrived.notify_all()
        if behaviour in ("hang", "close"):
            if behaviour == "hang":
                self.released.wait(120)
            request.close_connection = True
            with suppress(OSError):
                request.connection.shutdown(socket.SHUT_RDWR)
            return
        if isinstance(behaviour, int) and behaviour != 200:
            self._answer(request, behaviour, b"no")
        elif request.command == "POST":
            self._answer(request, 204, b"")
        else:
            self._send_file(request, headers, is_cut=behaviour == "cut")

    def _send_file(
        self, request: BaseHTTPRequestHandler, headers: dict[str, str], *, is_cut: bool
    ) -> None:
        data = self.files.get(request.path.partition("?")[0])
        if data is None:
            self._answer(request, 404, b"")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        start = int(asked[1]) if asked else 0
        stop = min(int(asked[2]) + 1, len(data)) if asked and asked[2] else len(data)
        request.send_response(206 if asked else 200)
        request.send_header("content-length", str(stop - start))
        if asked:
            request.send_header("content-range", f"bytes {start}-{stop - 1}/{len(data)}")
        request.end_headers()
        part = data[start:stop]
        request.wfile.write(part[: len(part) // 2] if is_cut else part)
        request.close_connection = request.close_connection or is_cut

    def _answer(self, request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        request.send_response(status)
        if status != 204:
            request.send_header("content-length", str(len(body)))
        request.end_headers()
        if status != 204:
            request.wfile.write(body)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


class RunningHub:
    """A hub that listens on loopback, with parts of 64 KiB."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 1_000_000.0
        options = HubOptions(part_bytes=64 * 1024, revision_ttl_s=3600.0)
        self.local = LocalHub(folder, options=options, now=lambda: self.now_s)
        listener = open_listener(TcpAddress("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = HttpServer(self.local.app, listener, grace_s=0.1)
        self._loop = LoopThread("hub")
        self._serving = self._loop.wait(self._serve())

    async def _serve(self) -> asyncio.Task[None]:
        import asyncio

        is_ready = asyncio.Event()
        task = asyncio.create_task(self._server.serve(is_ready.set))
        await is_ready.wait()
        return task

    def close(self) -> None:
        async def stop() -> None:
            self._server.stop()
            await self._serving

        self._loop.wait(stop())
        self._loop.close()
        self.local.close()

    def client(self) -> HubClient:
        """Return a client that may do everything."""
        return HubClient(self.url, self.local.issue_token("admin"))

    def settings(self, token: str = "") -> ModelSettings:
        return ModelSettings(hub_url=self.url, hub_token=token)

    def files(self, ref: str, folder: Path) -> dict[str, bytes]:
        """Return the files of a published checkpoint, by name."""
        from gen_worker.models.hub import pull_folder
        from gen_worker.models.refs import TensorhubRef, parse_ref

        parsed = parse_ref(ref)
        assert isinstance(parsed, TensorhubRef)
        with self.client() as client:
            pull_folder(client, parsed, folder)
        every = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in every}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    hub = RunningHub(tmp_path / "hub")
    yield hub
    hub.close()


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Make what a job runs with; keyword arguments are keys of its spec."""

    def make(**fields: Any) -> RunConfig:
        settings = TrainerSettings(artifacts_dir=str(tmp_path / "training"))
        job = parse_job({"request_id": "run-7", "trainer": "m:T", "owner": "acme", **fields})
        return resolve(settings, job, places_of(settings))

    return make
