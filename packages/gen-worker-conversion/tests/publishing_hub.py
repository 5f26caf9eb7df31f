"""A hub on loopback that counts what it is sent and fails where a test says; jobs that publish."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn

from gen_worker.context.local import run_blocking
from gen_worker.events import Emitted, Failed, Telemetry
from gen_worker.models.hub import Clock, HubClient, HubOptions, LocalHub
from gen_worker.ports import Ports
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.files import FilePolicy, HubPublisher, JobScope, WorkerFiles
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

STEPS = {
    "revision": ("POST", r"/revisions$"),
    "upload": ("POST", r"/uploads$"),
    "bytes": ("PUT", r""),
    "complete": ("POST", r"/complete$"),
    "finalize": ("POST", r"/finalize$"),
    "dataset": ("POST", r"/datasets$"),
}
"""The requests of a publication, by what they do."""


class Hub:
    """A real hub behind a server that looks at every request."""

    def __init__(self, local: LocalHub, url: str) -> None:
        self.local = local
        self.url = url
        self.asked: list[tuple[str, str]] = []
        self.sent_bytes = 0
        """Of files, in requests that were let through."""
        self.opened = 0
        """Revisions that were begun."""
        self.faults: dict[str, int] = {}
        """Status by step, for as long as it is here; 0 breaks the connection."""
        self.spared: dict[str, int] = {}
        """How many requests of a step pass before its fault begins."""
        self.delays_s: dict[str, float] = {}
        """How long a step takes before it is done, by step."""
        self.unready_polls = 0
        """How often a publication under way is not done yet, whatever it is."""
        self.done: list[str] = []
        """Uploads that were completed."""
        self.finalized: list[Any] = []
        """What was sent to finalize revisions."""
        self._changed = threading.Condition()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        steps = [step for step in STEPS if _is_step(step, method, path)]
        status = next((self.faults[step] for step in steps if step in self.faults), None)
        await asyncio.sleep(sum(self.delays_s.get(step, 0.0) for step in steps))
        if status is not None and self._is_spared(steps):
            status = None
        if status is not None:
            self._note(method, path, 0, is_fault=True)
            await _answer(status, receive, send)
            return
        if self.unready_polls and method == "GET" and "/revisions/" in path:
            self.unready_polls -= 1
            self._note(method, path, 0)
            await _answer(200, receive, send, b'{"state": "finalizing"}')
            return
        lengths = [int(value) for name, value in scope["headers"] if name == b"content-length"]
        if _is_step("finalize", method, path):
            receive = await self._overheard(receive)
        await self.local.app(scope, receive, send)
        self._note(method, path, sum(lengths) if method == "PUT" else 0)
        if _is_step("complete", method, path):
            self.done.append(path)

    def _is_spared(self, steps: list[str]) -> bool:
        left = max((self.spared.get(step, 0) for step in steps), default=0)
        self.spared |= dict.fromkeys(steps, left - 1)
        return left > 0

    async def _overheard(self, receive: Any) -> Any:
        """Keep the body of a request, and return what gives it once more."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.finalized.append(msgspec.json.decode(body))
        again = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def give() -> Any:
            return next(again, None) or await receive()

        return give

    def _note(self, method: str, path: str, size_bytes: int, *, is_fault: bool = False) -> None:
        with self._changed:
            self.opened += not is_fault and _is_step("revision", method, path)
            self.asked.append((method, path))
            self.sent_bytes += size_bytes
            self._changed.notify_all()

    def count_done(self) -> int:
        """Return how many files the hub has taken, of what it was asked since `forget`."""
        with self._changed:
            return len(self.done)

    def count(self, step: str) -> int:
        with self._changed:
            return sum(_is_step(step, *asked) for asked in self.asked)

    def wait_for(self, step: str, count: int = 1) -> None:
        """Wait until a step was answered so often."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: sum(_is_step(step, *asked) for asked in self.asked) >= count, 120
            ), self.asked

    def forget(self) -> None:
        with self._changed:
            self.asked.clear()
            self.finalized.clear()
            self.done.clear()
            self.sent_bytes = self.opened = 0

    def heal(self) -> None:
        """Have nothing fail any more."""
        self.faults.clear()
        self.spared.clear()
        self.delays_s.clear()

    def scope(self) -> JobScope:
        token = self.local.issue_token("admin")
        return JobScope(base_url=self.url, capability_token=token, owner="acme", job_id="job-1")

    def client(self) -> HubClient:
        return HubClient(self.url, self.local.issue_token("admin"))

    def tree(self, repo: str, tag: str = "latest", flavor: str = "") -> dict[str, str]:
        """Return the digests of the files under a tag, by path."""
        owner, _, name = repo.partition("/")
        with self.client() as client:
            entries = client.tree(owner, name, tag=tag, flavor=flavor)
        return {entry["path"]: entry.get("digest") or entry["blake3"] for entry in entries}


def _is_step(step: str, method: str, path: str) -> bool:
    wanted, pattern = STEPS[step]
    return method == wanted and re.search(pattern, path) is not None


_SCRIPTED = b'{"error": "scripted", "message": "as the test says"}'


async def _answer(status: int, receive: Any, send: Any, body: bytes = _SCRIPTED) -> None:
    while (await receive()).get("more_body"):
        pass
    size = len(body) if status else 2 * len(body)  # the server gives up on what stays incomplete
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": status or 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not status})


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients of the hub wait in no time: their half hours pass at once."""
    hours = [0.0]

    def sleep(seconds: float, token: Any) -> None:
        hours[0] += seconds

    clock = Clock(now=lambda: hours[0], sleep=sleep)
    monkeypatch.setitem(HubClient.__init__.__kwdefaults__ or {}, "clock", clock)


@contextmanager
def running_hub(folder: Path, **options: Any) -> Iterator[Hub]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    port = listener.getsockname()[1]
    with LocalHub(folder, options=HubOptions(**{"part_bytes": 64 * 1024, **options})) as local:
        hub = Hub(local, f"http://127.0.0.1:{port}")
        config = uvicorn.Config(hub, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield hub
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


class Events:
    def __init__(self) -> None:
        self.told: list[Emitted] = []

    def emit(self, event: Telemetry) -> None:
        if isinstance(event, Emitted):
            self.told.append(event)

    def types(self) -> list[str]:
        return [event.type for event in self.told]


class Worker:
    """Runs jobs as a worker does, with the files and the publisher of one."""

    def __init__(self, folder: Path, hub: Hub, *functions: Callable[..., Any] | type) -> None:
        self.events = Events()
        self.folder = folder
        self.hub = hub
        policy = FilePolicy(
            job_dir=str(folder / "jobs"),
            cas_dir=str(folder / "cas"),
            download_backoff_s=0.01,
            upload_tries=2,
            upload_backoff_s=0,
        )
        self.files = WorkerFiles(policy, self.events)
        models: Any = None
        ports = Ports(
            files=self.files,
            events=self.events,
            models=models,
            publisher=HubPublisher(self.files),
            run=run_blocking,
        )
        self.engine = Engine([spec for one in functions for spec in specs_of(one)], ports)

    def run(self, function: str, payload: dict[str, Any]) -> Any:
        """Run a job; return its failure, or what it returned."""
        self.files.enter("r", self.hub.scope())
        invocation = Invocation(
            function=function,
            payload=msgspec.json.encode(payload),
            request_id="r",
            job_id="job-1",
        )
        try:
            outcome = self.engine.run(invocation)
        finally:
            self.files.leave("r")
        return outcome.failure if isinstance(outcome, Failed) else outcome.value

    def close(self) -> None:
        self.engine.close_now()
        self.files.close()
