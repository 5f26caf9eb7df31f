"""Who is told now: attempts side by side, few at a time to one host, each until it counts."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, RetryableError
from gen_worker.models.net import parse_url
from gen_worker.runtime.scheduler.errors import LedgerWriteError
from gen_worker.runtime.scheduler.webhooks import tables
from gen_worker.runtime.scheduler.webhooks.sending import Message, Sent, opener_of, send
from gen_worker.runtime.scheduler.webhooks.values import WebhookStatistics

if TYPE_CHECKING:
    import sqlite3
    from asyncio import Task
    from collections.abc import Awaitable, Callable, Sequence

    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.values import RequestRecord
    from gen_worker.runtime.scheduler.webhooks.secrets import WebhookSecrets
    from gen_worker.runtime.scheduler.webhooks.tables import Settled, Turn
    from gen_worker.runtime.scheduler.webhooks.values import (
        Delivery,
        DeliveryState,
        WebhookOptions,
    )

    Answer = Callable[[RequestRecord], Awaitable[bytes]]

__all__ = ["Answer", "Deliveries"]

_log = logging.getLogger("gen_worker.scheduler")

_PROMPT_S = 2.0
"""A host that answers within has attempts that no other host takes away."""
_SHARE_OF_OTHERS = 0.75
_MAX_KNOWN_HOSTS = 1000
_FACTOR = 3.0
_JITTER = 0.2
_BODIES_AT_ONCE = 4
"""Made in memory before they are cut to what is sent."""
_TIDY_EVERY_S = 600.0
_RECOVERY_S = 10.0
_GONE = 410


class Deliveries:
    """Makes attempts until `close`. On the ledger's loop."""

    def __init__(
        self,
        ledger: Ledger,
        answer: Answer,
        secrets: WebhookSecrets,
        options: WebhookOptions,
        clock: Callable[[], float],
    ) -> None:
        self.trusted = frozenset(parse_url(url).origin for url in options.trusted)
        self._ledger = ledger
        self._answer = answer
        self._secrets = secrets
        self._options = options
        self._clock = clock
        self._opener = opener_of(options)
        self._threads = ThreadPoolExecutor(options.max_at_once, "gen-worker-webhook")
        self._bodies = asyncio.Semaphore(_BODIES_AT_ONCE)
        self._under_way: dict[tuple[int, str], Task[None]] = {}
        self._just_over: set[tuple[int, str]] = set()
        """What is no longer under way since the database was asked what is due."""
        self._tokens: set[CancelToken] = set()
        self._by_origin: Counter[str] = Counter()
        self._prompt: OrderedDict[str, bool] = OrderedDict()
        """By origin, whether it answered promptly last; the latest last."""
        self._news = asyncio.Event()
        self._running: Task[None] | None = None
        self._counts: Counter[str] = Counter()

    def start(self) -> None:
        self._running = asyncio.create_task(self._run(), name="gen-worker-deliveries")

    def wake(self) -> None:
        """Look whether more is due."""
        self._news.set()

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,))
        for token in tuple(self._tokens):
            token.cancel("shutdown")
        if self._under_way:
            await asyncio.wait(self._under_way.values())
        self._threads.shutdown(wait=False)
        self._opener.close()

    def statistics(self) -> WebhookStatistics:
        counts = self._counts
        return WebhookStatistics(
            in_flight=len(self._under_way),
            delivered=counts["delivered"],
            failed=counts["failed"] + counts["gone"],
            attempts=counts["attempts"],
        )

    # -- whose turn it is --------------------------------------------------------------------------

    async def _run(self) -> None:
        tidy_at = 0.0
        while True:
            self._news.clear()
            now = self._clock()
            try:
                if now >= tidy_at:
                    tidy_at = now if await self._tidy(now) else now + _TIDY_EVERY_S
                if await self._begin_some(now):
                    continue
                next_at = await self._ledger.ask(partial(tables.next_due, after=now))
            except LedgerWriteError as error:
                next_at = now + error.retry_after_s
            except Exception:  # nobody else would deliver what waits
                _log.exception("webhooks are delivered later")
                next_at = now + _RECOVERY_S
            at = tidy_at if next_at is None else min(next_at, tidy_at)
            try:
                async with asyncio.timeout(max(at - self._clock(), 0.0)):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _tidy(self, now: float) -> bool:
        before = now - self._options.keep_s
        return await self._ledger.transact(partial(_forget, before=before))

    async def _begin_some(self, now: float) -> bool:
        """Begin attempts that are due; return whether some were begun."""
        count = 0
        for turn in await self._due(now):
            key = (turn.delivery.seq, turn.delivery.event)
            is_known = key in self._under_way or key in self._just_over
            if not is_known and self._has_room(turn.origin):
                self._by_origin[turn.origin] += 1
                name = f"gen-worker-webhook-{key[0]}"
                self._under_way[key] = asyncio.create_task(self._attempt(turn), name=name)
                count += 1
        return count > 0

    async def _due(self, now: float) -> Sequence[Turn]:
        """Return what is due, of those who may have their turn; some of it is under way."""
        if len(self._under_way) >= self._options.max_at_once:
            return ()
        prompt = [origin for origin, is_prompt in self._prompt.items() if is_prompt]
        query = partial(
            tables.due,
            now=now,
            full=[origin for origin in self._by_origin if not self._has_room_of_its_own(origin)],
            only=None if self._others_have_room() else prompt,
            limit=self._options.max_at_once,
        )
        self._just_over.clear()
        return await self._ledger.ask(query)

    def _has_room(self, origin: str) -> bool:
        return (
            len(self._under_way) < self._options.max_at_once
            and self._has_room_of_its_own(origin)
            and (self._is_prompt(origin) or self._others_have_room())
        )

    def _has_room_of_its_own(self, origin: str) -> bool:
        """Return whether an origin may have one more attempt: a second only if it was not slow."""
        limit = self._options.max_per_host if self._prompt.get(origin, True) else 1
        return self._by_origin[origin] < limit

    def _others_have_room(self) -> bool:
        """Return whether those not known to be prompt leave enough to those that are."""
        others = sum(n for origin, n in self._by_origin.items() if not self._is_prompt(origin))
        return others < self._options.max_at_once * _SHARE_OF_OTHERS

    def _is_prompt(self, origin: str) -> bool:
        return self._prompt.get(origin, False)

    # -- an attempt --------------------------------------------------------------------------------

    async def _attempt(self, turn: Turn) -> None:
        key = (turn.delivery.seq, turn.delivery.event)
        token = CancelToken()
        self._tokens.add(token)
        try:
            settled = await self._tried(turn, token)
            if settled is not None:
                await self._settle(settled)
        except Exception:  # the others go on
            _log.exception("the webhook of request %r", turn.delivery.request_id)
        finally:
            self._tokens.discard(token)
            del self._under_way[key]
            self._just_over.add(key)
            self._by_origin[turn.origin] -= 1
            if not self._by_origin[turn.origin]:
                del self._by_origin[turn.origin]
            self.wake()

    async def _tried(self, turn: Turn, token: CancelToken) -> Settled | None:
        """Make one attempt; None when it was given up because everything stops."""
        delivery = turn.delivery
        try:
            body = await self._body_of(delivery)
            sent = await self._sent(turn, body, token) if body else None
        except CanceledError:
            return None
        except Exception as error:  # such as a file of secrets that is gone: tried again
            _log.exception("the webhook of request %r is not sent", delivery.request_id)
            sent = Sent(0, f"the scheduler could not send it ({type(error).__name__})")
        self._counts["attempts"] += 1
        return self._judged(delivery, sent)

    async def _body_of(self, delivery: Delivery) -> bytes:
        """Return what is sent; nothing when the request is not kept any more."""
        async with self._bodies:
            record = await self._ledger.record(delivery.request_id)
            if record is None or record.seq != delivery.seq:
                return b""
            body = await self._answer(record)
            if len(body) > self._options.max_body_bytes:
                body = _shortened(body)
        return b'%b,"event":"%b"}' % (body[:-1], delivery.event.encode())

    async def _sent(self, turn: Turn, body: bytes, token: CancelToken) -> Sent:
        loop = asyncio.get_running_loop()
        delivery, timeout_s = turn.delivery, self._options.timeout_s
        message = Message(
            delivery.url,
            delivery.webhook_id,
            int(time.time()),  # receivers compare it with their own clocks
            body,
            self._secrets.of(turn.owner),
        )
        # A receiver that takes a byte a second is not silent: only the clock ends that.
        alarm = loop.call_later(timeout_s, token.cancel, "deadline")
        began = time.monotonic()
        try:
            sent = await loop.run_in_executor(
                self._threads, send, self._opener, message, timeout_s, token
            )
        finally:
            alarm.cancel()
        self._prompt[turn.origin] = time.monotonic() - began < _PROMPT_S
        self._prompt.move_to_end(turn.origin)
        if len(self._prompt) > _MAX_KNOWN_HOSTS:
            self._prompt.popitem(last=False)
        return sent

    def _judged(self, delivery: Delivery, sent: Sent | None) -> Settled:
        """Return what an attempt comes to; `sent` is None when there is nothing to send."""
        now = self._clock()
        attempts = delivery.attempts + 1
        wait_s = self._wait_s(attempts, sent)
        give_up_at = (delivery.happened_at or now) + self._options.give_up_after_s
        state: DeliveryState = "pending"
        if sent is None:
            state, sent = "failed", Sent(0, "the request is not kept any more")
        elif not sent.error:
            state = "delivered"
        elif sent.status == _GONE:
            state = "gone"
        elif now + wait_s > give_up_at:
            state = "failed"
        return tables.Settled(
            delivery.seq,
            delivery.event,
            state,
            attempts,
            now + wait_s,
            now,
            sent.status,
            sent.error,
        )

    def _wait_s(self, attempts: int, sent: Sent | None) -> float:
        options = self._options
        longest = options.max_retry_s
        wait_s = min(options.first_retry_s * _FACTOR ** min(attempts - 1, 50), longest)
        wait_s *= 1 + random.uniform(-_JITTER, _JITTER)
        return max(wait_s, min(sent.retry_after_s, longest)) if sent is not None else wait_s

    async def _settle(self, settled: Settled) -> None:
        """Note what became of an attempt, for as long as it takes to get it written."""
        while True:
            try:
                await self._ledger.transact(partial(_settle, settled=settled))
            except LedgerWriteError as error:
                await asyncio.sleep(error.retry_after_s)
            except RetryableError:  # the ledger is closed; the attempt is made again
                return
            else:
                self._counts[settled.state] += 1
                return


def _settle(connection: sqlite3.Connection, now: float, settled: Settled) -> None:
    tables.settle(connection, settled)


def _forget(connection: sqlite3.Connection, now: float, before: float) -> bool:
    return tables.forget(connection, before)


def _shortened(body: bytes) -> bytes:
    """Leave out what may be long; `GET /v1/requests/{id}` has it."""
    whole = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    some: dict[str, object] = dict(whole) | {"output": None, "events": []}
    return msgspec.json.encode(some | {"is_shortened": True})
