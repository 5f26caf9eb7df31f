"""A scheduler's HTTP API on loopback, with real requests, and workers that are the test itself."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from gen_worker.events import Timings
from gen_worker.manifest import dump_lock
from gen_worker.runtime.http import (
    Credentials,
    HttpApp,
    HttpOptions,
    open_listener,
    serve_app,
    url_of,
)
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.runtime.scheduler import Costs, Ending, Ledger, NewEvent
from gen_worker.runtime.scheduler.api import SchedulerBackend, SchedulerParts
from gen_worker.runtime.scheduler.catalog import Catalog
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.fleet import ModelView, WorkerView
from gen_worker.runtime.scheduler.intake import Intake
from gen_worker.runtime.scheduler.last_events import last_event
from gen_worker.runtime.scheduler.releases import ReleaseLimits, Releases
from gen_worker.runtime.scheduler.requests import Live, RequestOptions, Requests, RetryPolicy
from gen_worker.runtime.scheduler.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure

TIMEOUT_S = 60.0
EVENTS = {"Accept": "text/event-stream"}


def lock_of(*functions: str, endpoint: str = "paint") -> bytes:
    """Return an endpoint.lock with these functions; a name with `*` streams."""
    found = [
        {
            "name": name.strip("*"),
            "module": "paint",
            "output_mode": "incremental" if "*" in name else "single",
        }
        for name in functions
    ]
    return dump_lock({"lock_version": 1, "endpoint_name": endpoint, "functions": found}).encode()


def tar_of(files: Mapping[str, bytes], lock: bytes | None = None, mode: str = "w") -> bytes:
    """Return a tar file of a project."""
    content = dict(files)
    if lock is not None:
        content[".tensorhub/endpoint.lock"] = lock
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


class Hands:
    """The test as the dispatcher: gives requests to workers that do what it says."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._news = asyncio.Event()
        self.is_eager = False
        """Whether everything is answered at once."""
        self.interrupted: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.drained: list[tuple[str, float, str]] = []
        self.views: list[WorkerView] = []

    # -- what requests say -------------------------------------------------------------------------

    def wake(self, queue: str) -> None:
        self._news.set()
        if self.is_eager:
            while self._requests.queues().get(queue):
                self.finish(self._take(queue), {"ok": True})

    def interrupt(self, live: Live, reason: CancelReason) -> None:
        self.interrupted.put_nowait((live.request_id, reason))

    # -- what the API says -------------------------------------------------------------------------

    def workers(self) -> list[WorkerView]:
        return self.views

    def models(self) -> list[ModelView]:
        return [ModelView(ref="acme/flux", size_bytes=5, workers={"w1": "vram"})]

    def waits_for(self, queue: str) -> str:
        return "no worker is there"

    async def drain(self, worker_id: str, deadline_s: float = 0.0, reason: str = "") -> bool:
        self.drained.append((worker_id, deadline_s, reason))
        return any(view.id == worker_id for view in self.views)

    # -- what the test does ------------------------------------------------------------------------

    async def take(self) -> Live:
        """Give the next request to a worker, once there is one."""
        async with asyncio.timeout(TIMEOUT_S):
            while not (queues := self._requests.queues()):
                self._news.clear()
                await self._news.wait()
        return self._take(next(iter(queues)))

    def _take(self, queue: str) -> Live:
        live = self._requests.take(queue)
        assert live is not None
        self._requests.given(live, "w1")
        return live

    async def produce(self, live: Live, *items: Any, first: int = 1) -> None:
        events = [
            NewEvent(b"delta", msgspec.json.encode(item), live.attempt, sequence)
            for sequence, item in enumerate(items, first)
        ]
        await self._requests.produced(live, live.attempt, events)

    async def report(self, live: Live, text: str) -> None:
        record = {
            "request_id": live.request_id,
            "event_type": "log",
            "payload": {"text": text},
            "timestamp": 1.0,
        }
        event = NewEvent(b"event", msgspec.json.encode(record), live.attempt)
        await self._requests.produced(live, live.attempt, [event])

    def finish(
        self, live: Live, value: Any = None, *, is_streamed: bool = False
    ) -> asyncio.Future[None]:
        ending = Ending(
            status="succeeded",
            attempt=live.attempt,
            is_streamed=is_streamed,
            timings=Timings(compute_ms=2.5),
        )
        shown = msgspec.json.encode(value)
        event = last_event(live.record, ending, now=live.record.created_at + 1, value=shown)
        return self._requests.ended(live, live.attempt, ending, event)

    async def fail(self, live: Live, failure: Failure) -> None:
        await self._requests.failed(live, live.attempt, failure)


class ApiHost:
    """A running API."""

    ledger: Ledger
    requests: Requests
    releases: Releases
    tokens: Tokens
    backend: SchedulerBackend
    app: HttpApp
    hands: Hands
    http: httpx.AsyncClient
    url: str

    def __init__(self) -> None:
        self.stop = asyncio.Event()

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

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    lock_of = staticmethod(lock_of)
    tar_of = staticmethod(tar_of)

    def client(self, token: str = "") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(
            base_url=self.url, timeout=TIMEOUT_S, trust_env=False, headers=headers
        )

    async def publish(
        self,
        text: bytes = b"one",
        *functions: str,
        owner: str = "acme",
        endpoint: str = "paint",
        tag: str = "prod",
    ) -> str:
        """Publish a project by upload; return the release's id."""
        lock = lock_of(*(functions or ("draw", "count*")), endpoint=endpoint)
        found = await self.http.post(
            "/v1/releases",
            params={"owner": owner, "endpoint": endpoint, "environment": "cpu", "tag": tag},
            content=tar_of({"src/paint.py": text}, lock),
        )
        assert found.status_code in (200, 201), found.text
        return str(found.json()["release_id"])


class _Pool:
    sizes: Mapping[str, int] = {}

    def classes(self, _release_id: str) -> list[Any]:
        return []


class _Hub:
    async def look_up(self, _ref: object) -> None:
        return None


def _issue(*, release_id: str, owner: str, worker_id: str, ttl_s: float | None) -> str:
    return f"jwt {release_id} {owner} {worker_id} {ttl_s}"


@asynccontextmanager
async def running_api(
    folder: Path,
    *,
    has_tokens: bool = False,
    options: RequestOptions | None = None,
    owner: str | None = "me",
    is_published: bool = True,
    release_limits: ReleaseLimits | None = None,
    **http: Any,
) -> AsyncIterator[ApiHost]:
    """Run an API; its folder is a scheduler's, and may have been another one's before."""
    host = ApiHost()
    async with AsyncExitStack() as stack:
        host.ledger = ledger = await Ledger.open(folder / "ledger")
        stack.push_async_callback(ledger.close)
        host.releases = releases = await Releases.open(folder / "releases", ledger)
        stack.push_async_callback(releases.close)
        easy = RequestOptions(retries=RetryPolicy(first_delay_s=0.01, jitter=0.0))
        clock = steady_clock()
        host.requests = requests = Requests(ledger, options or easy, clock=clock)
        host.hands = hands = Hands(requests)
        requests.runner = hands
        await requests.start()
        stack.push_async_callback(requests.close)
        host.tokens = tokens = await Tokens.open(ledger, root_token="root", worker_token="starter")
        catalog = Catalog(releases)
        intake = Intake(
            requests, releases.tags, catalog, hub=_Hub(), costs=Costs(), pool=_Pool(), clock=clock
        )
        parts = SchedulerParts(
            ledger, requests, intake, catalog, releases, hands, tokens, _issue, clock
        )
        host.backend = SchedulerBackend(
            parts,
            uploads=str(folder / "uploads"),
            metrics=lambda: b"up 1\n",
            owner=owner,
            release_limits=release_limits,
        )
        stack.callback(host.backend.close)
        credentials: Credentials | None = tokens if has_tokens else None
        asked = HttpOptions(
            credentials=credentials, is_loopback=not has_tokens, owner=owner, **http
        )
        host.app = HttpApp(host.backend, asked)
        listener = open_listener(TcpAddress("127.0.0.1", 0))
        host.url = url_of(listener)
        ready = asyncio.Event()
        serving = asyncio.create_task(
            serve_app(host.app, listener, host.stop, ready=ready.set, drain_s=5.0)
        )
        stack.push_async_callback(_ended, host.stop, serving)
        await ready.wait()
        host.http = await stack.enter_async_context(host.client("root" if has_tokens else ""))
        if is_published:
            await host.publish()
        yield host


async def _ended(stop: asyncio.Event, serving: asyncio.Task[None]) -> None:
    stop.set()
    await serving


RunApi = Callable[..., AbstractAsyncContextManager[ApiHost]]
"""Runs an API on the test's folder; see `running_api`."""


@pytest.fixture
def run_api(tmp_path: Path) -> RunApi:
    def run(**options: Any) -> AbstractAsyncContextManager[ApiHost]:
        return running_api(tmp_path, **options)

    return run


ServeApi = Callable[..., AbstractAsyncContextManager[ApiHost]]
"""The same on a folder that is given."""


@pytest.fixture(scope="session")
def serve_api() -> ServeApi:
    return running_api
