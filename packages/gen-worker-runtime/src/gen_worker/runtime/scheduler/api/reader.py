"""A client that follows a request: what the ledger has, then what comes, each event once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gen_worker.runtime.http.sse import COMMENT, frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.requests import Requests
    from gen_worker.runtime.scheduler.values import RequestRecord, StoredEvent

__all__ = ["LedgerReader"]

_MAX_HELD_BYTES = 256 * 1024
"""Of what came while its client was behind; beyond it everything is read from the disk again."""


class LedgerReader:
    """One reader. On the loop.

    It never has more of a request in memory than the bound, however slow its client is: what it
    does not hold it reads from the ledger, where everything is that it is told of.
    """

    def __init__(
        self, ledger: Ledger, requests: Requests, record: RequestRecord, after: int
    ) -> None:
        """Follow a request from now on.

        Args:
            ledger: Has what came before.
            requests: Tells what comes.
            record: The request.
            after: Id of the last event that its client has.
        """
        self._ledger = ledger
        self._requests = requests
        self._seq = record.seq
        self._request_id = record.request_id
        self._wake = asyncio.Event()
        self._is_pinged = False
        self._held: list[StoredEvent] = []
        """Without a gap, up to the last one there is; empty when the disk is to be read."""
        self.held_bytes = 0
        """Of what is in memory for its client."""
        self._is_live = record.ending is None and requests.watch(record.seq, self)
        live = requests.by_seq(record.seq) if self._is_live else None
        self._last = (record if live is None else live.record).last_event_id
        """Id of the last event there is, as far as is known."""
        self._is_over = record.ending is not None
        """Whether the last one there is is the last one there will be."""
        self._at = min(after, self._last)
        """Id of the last event that was read."""

    def told(self, events: Sequence[StoredEvent], record: RequestRecord) -> None:
        """Take what is new; see `Watcher`."""
        fresh = [event for event in events if event.event_id > max(self._last, self._at)]
        is_up_to_date = self._held or self._at >= self._last
        if fresh:
            self._last = fresh[-1].event_id
            if is_up_to_date:
                self._hold(fresh)
        if record.ending is not None:
            self._is_over = True
            self._is_live = False
        self._wake.set()

    def _hold(self, events: Sequence[StoredEvent]) -> None:
        self._held += events
        self.held_bytes += sum(len(event.data) for event in events)
        if self.held_bytes > _MAX_HELD_BYTES:
            self._let_go()

    def _let_go(self) -> None:
        self._held = []
        self.held_bytes = 0

    async def read(self) -> bytes:
        """Return the next events as a stream shows them, waiting for some; empty at the end."""
        if not self._is_live and not self._is_over:
            await self._look_at_its_end()
        while True:
            if self._held:
                events: Sequence[StoredEvent] = self._held
                self._let_go()
            elif self._at < self._last:
                events = await self._ledger.events(self._seq, after=self._at)
                if not events:
                    return b""  # it was forgotten
            elif self._is_over:
                return b""
            elif self._is_pinged:
                self._is_pinged = False
                return COMMENT
            else:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._is_pinged = False
            self._at = events[-1].event_id
            self._last = max(self._last, self._at)
            return b"".join(frame(event.name, event.data, event.event_id) for event in events)

    async def _look_at_its_end(self) -> None:
        """Find the end of a request that was over before it could be watched."""
        record = await self._ledger.record(self._request_id)
        if record is not None:
            self._last = max(self._last, record.last_event_id)
        self._is_over = True

    def ping(self) -> None:
        """Have `read` return, with nothing but a sign of life when there is nothing else."""
        self._is_pinged = True
        self._wake.set()

    def close(self) -> None:
        """Stop reading."""
        self._let_go()
        if self._is_live:
            self._is_live = False
            self._requests.unwatch(self._seq, self)
