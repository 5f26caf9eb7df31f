"""Requests of the ledger, as the HTTP app asks for them."""

from __future__ import annotations

import asyncio
import math
from functools import lru_cache
from typing import TYPE_CHECKING

from gen_worker.runtime.http.jobs import NO_WISHES
from gen_worker.runtime.http.targets import parse_target
from gen_worker.runtime.scheduler.api.bodies import answer_of, shown
from gen_worker.runtime.scheduler.api.reader import LedgerReader
from gen_worker.runtime.scheduler.job_options import Webhook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.errors import Failure
    from gen_worker.runtime.engine import Invocation
    from gen_worker.runtime.http.jobs import Status, Wishes
    from gen_worker.runtime.scheduler.intake import Intake
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests import Requests
    from gen_worker.runtime.scheduler.values import RequestRecord, StoredEvent

__all__ = ["LedgerJob", "LedgerJobs"]


class LedgerJobs:
    """All requests that a scheduler keeps. On its loop."""

    running = 0
    """None of them is lost with this process."""

    def __init__(
        self,
        ledger: Ledger,
        requests: Requests,
        intake: Intake,
        *,
        waits_for: Callable[[str], str],
        check: Callable[[Webhook], None] = lambda _webhook: None,
    ) -> None:
        """Keep requests in a ledger.

        Args:
            ledger: Where they are.
            requests: Those that have not ended.
            intake: Where new ones come in.
            waits_for: Says why the first request of a queue waits.
            check: Raises a `ValidationError` for a webhook that nothing can be sent to.
        """
        self.ledger = ledger
        self.requests = requests
        self.waits_for = waits_for
        self._intake = intake
        self._check = check

    @property
    def idle_s(self) -> float:
        return 0.0 if len(self.requests) else math.inf

    async def submit(
        self,
        invocation: Invocation,
        *,
        key: str = "",
        body: bytes = b"",
        wishes: Wishes = NO_WISHES,
    ) -> LedgerJob:
        webhook = None
        if wishes.webhook is not None:
            webhook = Webhook(url=wishes.webhook.url, events=wishes.webhook.events)
            self._check(webhook)
        submitted = await self._intake.submit(
            _target(invocation.function),
            invocation,
            key=key,
            body=body,
            priority=wishes.priority,
            webhook=webhook,
        )
        return LedgerJob(self, submitted.record, shows_position=False)

    async def find(self, request_id: str) -> LedgerJob | None:
        live = self.requests.live(request_id)
        if live is not None:
            return LedgerJob(self, live.record)
        record = await self.ledger.record(request_id)
        return None if record is None else LedgerJob(self, record)


_target = lru_cache(1024)(parse_target)


class LedgerJob:
    """One request, ended or not."""

    def __init__(
        self, jobs: LedgerJobs, record: RequestRecord, *, shows_position: bool = True
    ) -> None:
        """Look at a request.

        Args:
            jobs: All of them.
            record: It, as far as is known.
            shows_position: Whether its place in the queue is counted; that takes as long as there
                are owners who wait.
        """
        self.request_id = record.request_id
        self.function = record.function
        self.owner: str | None = record.owner
        self._jobs = jobs
        self._shows_position = shows_position
        self._record = record
        self._live = None if record.ending is not None else jobs.requests.by_seq(record.seq)
        self._last: StoredEvent | None = None

    @property
    def record(self) -> RequestRecord:
        """The latest that is known."""
        if self._live is not None:
            self._record = self._live.record
        return self._record

    @property
    def status(self) -> Status:
        return self.record.status

    @property
    def failure(self) -> Failure | None:
        ending = self.record.ending
        return None if ending is None else ending.failure

    @property
    def last_event_id(self) -> int:
        return self.record.last_event_id

    async def answer(self) -> bytes:
        record = self.record
        if record.ending is None:
            return self._as_it_waits(record)
        return await answer_of(self._jobs.ledger, record, self._last)

    def _as_it_waits(self, record: RequestRecord) -> bytes:
        if self._live is None or not self._shows_position:
            return shown(record)
        position = self._jobs.requests.position(self.request_id)
        is_waiting = position is not None
        return shown(record, position, self._jobs.waits_for(self._live.queue) if is_waiting else "")

    async def wait(self) -> None:
        record = self.record
        if record.ending is not None:
            return
        requests, end = self._jobs.requests, _End()
        if not requests.watch(record.seq, end):
            await self._look_again()
            return
        try:
            await end.came.wait()
        finally:
            if end.record is None:
                requests.unwatch(record.seq, end)
        if end.record is not None:
            self._live, self._record, self._last = None, end.record, end.last

    async def cancel(self, reason: CancelReason) -> bool:
        is_canceled = await self._jobs.requests.cancel(self.request_id, reason)
        if self.record.ending is None:
            await self._look_again()
        return is_canceled

    def read(self, after: int) -> LedgerReader:
        return LedgerReader(self._jobs.ledger, self._jobs.requests, self.record, after)

    async def _look_again(self) -> None:
        """Look into the ledger for what is over, and was not when this was made."""
        if self._jobs.requests.by_seq(self._record.seq) is None:
            record = await self._jobs.ledger.record(self.request_id)
            if record is not None:
                self._live, self._record = None, record


class _End:
    """Waits for the end of a request."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.record: RequestRecord | None = None
        self.last: StoredEvent | None = None

    def told(self, events: Sequence[StoredEvent], record: RequestRecord) -> None:
        if record.ending is not None:
            self.record = record
            self.last = events[-1] if events else None
            self.came.set()
