"""Webhooks: which requests want one, what has happened to them, and who is told now.

How no end is missed. A promise is put into the ledger's lane as soon as its request is known, so it
is committed before anything that the request may come to, or with it. What has happened is read
from the request's row: when a watcher is told of it, and of all promises at the start. So a process
that is killed between the end of a request and its delivery finds both; and one that is killed
between a delivery and its note delivers again, under the same id.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING

from gen_worker.errors import RetryableError, ValidationError
from gen_worker.models.net import UrlRefusedError, is_public, parse_url
from gen_worker.runtime.scheduler.clock import steady_clock
from gen_worker.runtime.scheduler.errors import LedgerWriteError
from gen_worker.runtime.scheduler.webhooks import tables
from gen_worker.runtime.scheduler.webhooks.deliveries import Deliveries
from gen_worker.runtime.scheduler.webhooks.values import ALL_EVENTS, WebhookOptions

if TYPE_CHECKING:
    import sqlite3
    from asyncio import Future, Task
    from collections.abc import Callable, Sequence

    from gen_worker.runtime.scheduler.job_options import Webhook
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests import Live, Requests
    from gen_worker.runtime.scheduler.values import RequestRecord, StoredEvent
    from gen_worker.runtime.scheduler.webhooks.deliveries import Answer
    from gen_worker.runtime.scheduler.webhooks.secrets import WebhookSecrets
    from gen_worker.runtime.scheduler.webhooks.values import Delivery, WebhookStatistics

__all__ = ["Webhooks"]

_log = logging.getLogger("gen_worker.scheduler")

_MAX_URL_CHARS = 2048
_OPTIONS = WebhookOptions()


class _Wanted:
    """What the client of a request that has not ended is to be told."""

    def __init__(self, promises: Sequence[tables.Promise]) -> None:
        self.promises = promises
        """That are not written yet."""
        self.start_is_awaited = any(promise.event == "started" for promise in promises)


class Webhooks:
    """Tells receivers what happens to requests. On the ledger's loop; watches all of them."""

    def __init__(
        self,
        ledger: Ledger,
        requests: Requests,
        answer: Answer,
        secrets: WebhookSecrets,
        options: WebhookOptions = _OPTIONS,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Begin with `start`.

        Args:
            ledger: Keeps deliveries beside requests.
            requests: Tells what happens to those that have not ended, from now on; it is to say of
                a new one, with no events, that it is on disk.
            answer: Makes the JSON object of `GET /v1/requests/{id}` of a request; it is what a
                receiver gets, with one more key, `event`.
            secrets: What owners' webhooks are signed with.
            options: Where they may lead, and how long one is tried.
            clock: Unix time.
        """
        clock = clock or steady_clock()
        self._ledger = ledger
        self._requests = requests
        self._options = options
        self._live: dict[int, _Wanted] = {}
        self._happened: set[int] = set()
        self._unwritten: dict[int, _Wanted] = {}
        """Whose promises found no room on the disk."""
        self._news = asyncio.Event()
        self._noting: Task[None] | None = None
        self._deliveries = Deliveries(ledger, answer, secrets, options, clock)
        requests.watch_all(self)

    async def start(self) -> None:
        """Find what happened while no scheduler ran, and begin to deliver.

        Requests are started before: those that have not ended are told of as ever.

        Raises:
            LedgerWriteError: The disk has no room.
        """
        for live in self._requests:
            self._follow(live)
        await self._ledger.transact(partial(_advance, seqs=None))
        self._noting = asyncio.create_task(self._note(), name="gen-worker-webhooks")
        self._deliveries.start()

    async def close(self) -> None:
        """Stop; attempts under way are given up, and made again by the next start.

        Call it before the ledger is closed, and after the last request was ended.
        """
        if self._noting is not None:
            self._noting.cancel()
            await asyncio.wait((self._noting,))
        await self._deliveries.close()

    def __repr__(self) -> str:
        return f"<Webhooks {len(self._live)} requests {self._deliveries.statistics()}>"

    # -- requests ----------------------------------------------------------------------------------

    def check(self, webhook: Webhook) -> None:
        """Refuse a URL that nothing can be sent to. Names are looked up when it is sent.

        Raises:
            ValidationError: It is no URL of the web, too long, a private address that may not be
                reached, or an event is none.
        """
        if len(webhook.url) > _MAX_URL_CHARS:
            raise ValidationError(
                f"the webhook's URL has {len(webhook.url)} characters: at most {_MAX_URL_CHARS}",
                path="$.webhook.url",
            )
        unknown = [event for event in webhook.events if event not in ALL_EVENTS]
        if unknown:
            raise ValidationError(
                f"a webhook tells of no {unknown[0]!r}: name some of {', '.join(ALL_EVENTS)}",
                path="$.webhook.events",
            )
        try:
            url = parse_url(webhook.url)
        except UrlRefusedError as error:
            raise ValidationError(f"the webhook's URL: {error}", path="$.webhook.url") from error
        may_be_private = self._options.allow_private or url.origin in self._deliveries.trusted
        if _is_numeric(url.host) and not is_public(url.host) and not may_be_private:
            raise ValidationError(
                f"the webhook's host {url.host!r} is no public address: use one, or let the "
                "operator trust it",
                path="$.webhook.url",
            )

    def told(self, events: Sequence[StoredEvent], record: RequestRecord) -> None:
        """Take what was committed of a request."""
        wanted = self._live.get(record.seq)
        if wanted is None:
            if not events and record.status == "queued":  # perhaps it is new
                self._follow(self._requests.by_seq(record.seq))
            return
        if record.ended_at is not None:
            del self._live[record.seq]
        elif record.started_at is None or not wanted.start_is_awaited:
            return
        wanted.start_is_awaited = False
        self._happened.add(record.seq)
        self._news.set()

    def _follow(self, live: Live | None) -> None:
        """Promise what the client of a request wants to be told, if that is something."""
        webhook = None if live is None else live.options.webhook
        if live is None or webhook is None or live.seq in self._live:
            return
        record = live.record
        wanted = _Wanted(
            [
                tables.Promise(
                    record.seq,
                    event,
                    record.request_id,
                    f"msg_{token_hex(16)}",
                    record.owner,
                    webhook.url,
                    parse_url(webhook.url).origin,
                )
                for event in webhook.events or ALL_EVENTS
            ]
        )
        self._live[record.seq] = wanted
        written = self._ledger.transact(partial(_promise, promises=wanted.promises))
        written.add_done_callback(partial(self._promised, record.seq, wanted))

    # -- questions ---------------------------------------------------------------------------------

    async def of(self, record: RequestRecord) -> Sequence[Delivery]:
        """Return the deliveries of a request, as they are now; none if it wanted none."""
        query = partial(tables.of_request, request_id=record.request_id, seq=record.seq)
        return await self._ledger.ask(query)

    async def pending(self) -> int:
        """Return how many deliveries are on their way."""
        return await self._ledger.ask(tables.pending)

    def statistics(self) -> WebhookStatistics:
        """Return what was done since the start."""
        return self._deliveries.statistics()

    # -- notes -------------------------------------------------------------------------------------

    def _promised(self, seq: int, wanted: _Wanted, written: Future[None]) -> None:
        if written.cancelled():
            return
        error = written.exception()
        if error is None:
            wanted.promises = ()
            return
        if isinstance(error, RetryableError):  # the scheduler is stopping
            return
        _log.warning(
            "a webhook of request %r is noted later: %s", wanted.promises[0].request_id, error
        )
        self._unwritten[seq] = wanted
        self._news.set()

    async def _note(self) -> None:
        """Write what has happened, for as long as it takes to get it written."""
        while True:
            await self._news.wait()
            self._news.clear()
            happened, self._happened = self._happened, set()
            unwritten, self._unwritten = self._unwritten, {}
            promises = [one for wanted in unwritten.values() for one in wanted.promises]
            try:
                await self._ledger.transact(partial(_note, promises=promises, seqs=happened))
            except LedgerWriteError as error:
                self._happened |= happened
                self._unwritten = unwritten | self._unwritten
                self._news.set()
                await asyncio.sleep(error.retry_after_s)
            else:
                self._deliveries.wake()


def _promise(
    connection: sqlite3.Connection, now: float, promises: Sequence[tables.Promise]
) -> None:
    tables.promise(connection, promises)


def _advance(connection: sqlite3.Connection, now: float, seqs: set[int] | None) -> int:
    return tables.advance(connection, now, seqs)


def _note(
    connection: sqlite3.Connection, now: float, promises: Sequence[tables.Promise], seqs: set[int]
) -> int:
    tables.promise(connection, promises)
    return tables.advance(connection, now, seqs | {promise.seq for promise in promises})


def _is_numeric(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
