"""Requests that want webhooks, and somebody who is told: a real server on loopback."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import pytest

from gen_worker.runtime.scheduler import Ending, Ledger, NewEvent
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.job_options import JobOptions, Webhook
from gen_worker.runtime.scheduler.requests import Requests
from gen_worker.runtime.scheduler.webhooks import WebhookOptions, Webhooks, WebhookSecrets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from types import TracebackType

    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.scheduler import RequestRecord, Submission
    from gen_worker.runtime.scheduler.requests import Live

TIMEOUT_S = 60.0


class Received(NamedTuple):
    """One request that came."""

    headers: dict[str, str]
    body: bytes

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Answered(NamedTuple):
    """What is answered to one."""

    status: int = 204
    headers: tuple[tuple[str, str], ...] = ()


class Receiver:
    """Counts what comes, and answers with `answer`."""

    def __init__(self, answer: Callable[[Received], Answered] = lambda _: Answered()) -> None:
        self.received: SimpleQueue[Received] = SimpleQueue()
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                fields = {name.lower(): value for name, value in self.headers.items()}
                one = Received(fields, self.rfile.read(size))
                if len(one.body) < size:  # whoever sent it was killed
                    self.close_connection = True
                    return
                with receiver._lock:
                    receiver.at_once += 1
                    receiver.most_at_once = max(receiver.most_at_once, receiver.at_once)
                try:
                    answered = answer(one)
                finally:
                    with receiver._lock:
                        receiver.at_once -= 1
                receiver.received.put(one)
                self.send_response(answered.status)
                for name, value in answered.headers:
                    self.send_header(name, value)
                if answered.status != 204:
                    self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/told?secret=1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def next(self) -> Received:
        """Wait for the next one."""
        return self.received.get(timeout=TIMEOUT_S)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Nobody:
    """Runs no request: the test does."""

    def wake(self, queue: str) -> None:
        """Look at nothing."""

    def interrupt(self, live: Live, reason: CancelReason) -> None:
        """Interrupt nothing."""


async def answer(record: RequestRecord) -> bytes:
    """Show a request as `GET /v1/requests/{id}` does."""
    shown = {"request_id": record.request_id, "status": record.status, "output": "x" * 100}
    return msgspec.json.encode(shown | {"success": record.status == "succeeded", "events": []})


class Room:
    """A ledger, its requests and their webhooks."""

    def __init__(self, ledger: Ledger, webhooks: Webhooks, requests: Requests) -> None:
        self.ledger = ledger
        self.webhooks = webhooks
        self.requests = requests

    async def submit(self, submission: Submission, webhook: Webhook | None) -> RequestRecord:
        return (await self.requests.submit(submission, JobOptions(webhook=webhook))).record

    def begin(self, record: RequestRecord) -> None:
        """Give a request, whose turn it is, to a worker."""
        live = self.requests.live(record.request_id)
        assert live is not None
        assert self.requests.take(live.queue) is live
        self.requests.given(live, "w")

    async def end(self, record: RequestRecord) -> None:
        """Have a request succeed, and wait until that is committed."""
        live = self.requests.live(record.request_id)
        assert live is not None
        if live.place != "worker":
            self.begin(record)
        event = NewEvent(b"result", b'{"output":1}')
        self.requests.ended(live, 1, Ending(status="succeeded", attempt=1), event)
        await self.ledger.flush()
        assert live.is_over


class OpenRoom(Protocol):
    def __call__(self, **options: Any) -> AbstractAsyncContextManager[Room]: ...


@pytest.fixture
def secrets(tmp_path: Path) -> WebhookSecrets:
    return WebhookSecrets(tmp_path / "webhook-secrets")


@pytest.fixture
def open_room(folder: Path, secrets: WebhookSecrets) -> OpenRoom:
    """Open the scheduler's folder, as often as one likes; failed attempts are repeated at once."""

    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Room]:
        ledger = await Ledger.open(folder)
        requests = Requests(ledger, clock=steady_clock())
        requests.runner = Nobody()
        made = WebhookOptions(**({"first_retry_s": 0.01, "max_retry_s": 0.05} | options))
        webhooks = Webhooks(ledger, requests, answer, secrets, made)
        await requests.start()
        await webhooks.start()
        try:
            yield Room(ledger, webhooks, requests)
        finally:
            await requests.close()
            await webhooks.close()
            await ledger.close()

    return opened


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


@pytest.fixture
def make_receiver() -> Iterator[Callable[..., Receiver]]:
    """Make receivers that answer as they are told."""
    made: list[Receiver] = []

    def make(answer: Callable[[Received], Answered]) -> Receiver:
        made.append(Receiver(answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def answered() -> Callable[..., Answered]:
    return Answered
