"""Live requests in a test's own folder, with a dispatcher and watchers that only take notes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from gen_worker.runtime.scheduler import Ledger, LedgerOptions, Submission
from gen_worker.runtime.scheduler.job_options import JobOptions
from gen_worker.runtime.scheduler.requests import RequestOptions, Requests, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.scheduler import RequestRecord, StoredEvent, Submitted
    from gen_worker.runtime.scheduler.requests import Live

QUEUE = "r1/draw"
EASY = JobOptions(endpoint_owner="acme")
POLICY = RetryPolicy(max_attempts=3, max_lost=2, first_delay_s=1.0, jitter=0.0)
OPTIONS = RequestOptions(retries=POLICY)


class Clock:
    """Unix time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Hands:
    """A dispatcher that only notes what it is told."""

    def __init__(self) -> None:
        self.woken: list[str] = []
        self.interrupted: list[tuple[str, str]] = []

    def wake(self, queue: str) -> None:
        self.woken.append(queue)

    def interrupt(self, live: Live, reason: CancelReason) -> None:
        self.interrupted.append((live.request_id, reason))


class Eyes:
    """A watcher that notes everything."""

    def __init__(self) -> None:
        self.events: list[tuple[int, bytes]] = []
        self.records: list[RequestRecord] = []

    def told(self, events: Sequence[StoredEvent], record: RequestRecord) -> None:
        self.events += [(event.event_id, event.name) for event in events]
        self.records.append(record)


class Desk(NamedTuple):
    """One scheduler's requests, as long as it runs."""

    requests: Requests
    ledger: Ledger
    hands: Hands
    clock: Clock

    def ask(
        self, request_id: str, *, options: JobOptions = EASY, **fields: Any
    ) -> Coroutine[Any, Any, Submitted]:
        return self.requests.submit(asked(request_id, **fields), options)

    async def submit(self, request_id: str, *, options: JobOptions = EASY, **fields: Any) -> Live:
        """Submit one that is new."""
        submitted = await self.ask(request_id, options=options, **fields)
        live = self.requests.by_seq(submitted.record.seq)
        assert live is not None
        return live

    def watch(self, live: Live | None = None) -> Eyes:
        """Watch one, or all."""
        eyes = Eyes()
        if live is None:
            self.requests.watch_all(eyes)
        else:
            assert self.requests.watch(live.seq, eyes)
        return eyes

    def give(self, worker_id: str = "w1", queue: str = QUEUE) -> Live:
        live = self.requests.take(queue)
        assert live is not None
        assert self.requests.given(live, worker_id) == live.attempt
        return live

    def pass_s(self, seconds: float) -> None:
        self.clock.now += seconds
        self.requests.look()

    async def settle(self) -> None:
        """Wait until all that was said is on disk."""
        await self.ledger.flush()
        while any(live.pending for live in self.requests):
            await self.ledger.flush()


def asked(request_id: str, **fields: Any) -> Submission:
    usual = {
        "owner": "acme",
        "endpoint": "paint",
        "function": "draw",
        "release_id": "r1",
        "payload": b"\x80",
    }
    return Submission(request_id=request_id, **(usual | fields))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_desk(folder: Path, clock: Clock) -> Callable[..., AbstractAsyncContextManager[Desk]]:
    """Start a scheduler's requests; those of the folder go on."""

    @asynccontextmanager
    async def opened(
        options: RequestOptions = OPTIONS, place: Path = folder
    ) -> AsyncIterator[Desk]:
        ledger = await Ledger.open(place, LedgerOptions(), clock=clock)
        requests = Requests(ledger, options, clock=clock, random=lambda: 0.0)
        requests.runner = hands = Hands()
        try:
            await requests.start()
            yield Desk(requests, ledger, hands, clock)
        finally:
            await requests.close()
            await ledger.close()

    return opened
