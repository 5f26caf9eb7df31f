"""The requests that have not ended, in memory: by name, by turn, by the moment that is next."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.requests.live import Live
from gen_worker.runtime.scheduler.requests.timers import Timers
from gen_worker.runtime.scheduler.waiting import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.runtime.scheduler.requests.live import Watcher
    from gen_worker.runtime.scheduler.values import RequestRecord, StoredEvent
    from gen_worker.runtime.scheduler.waiting import Waiting

__all__ = ["Lives"]

_log = logging.getLogger("gen_worker.scheduler")
_MAX_REMEMBERED = 1024


class Lives:
    """Where each of them is. On the loop."""

    def __init__(
        self,
        waiting: Waiting,
        clock: Callable[[], float],
        ring: Callable[[Live, float], None],
    ) -> None:
        """Begin with none.

        Args:
            waiting: Has those that wait for their turn.
            clock: Unix time.
            ring: Given one of whose moments one has come, and the time.
        """
        self.by_seq: dict[int, Live] = {}
        self.by_id: dict[str, Live] = {}
        self.waiting = waiting
        self.watchers: tuple[Watcher, ...] = ()
        """Of all of them."""
        self._ring = ring
        self._timers = Timers(clock, self._rung)
        self._options: dict[bytes, bytes] = {}
        """Equal options are kept once."""

    def add(self, record: RequestRecord, queue: str, options: bytes) -> Live:
        """Have one more; it is nowhere yet."""
        if len(self._options) >= _MAX_REMEMBERED:
            self._options.clear()
        live = Live(record, queue, self._options.setdefault(options, options))
        self.by_seq[record.seq] = self.by_id[record.request_id] = live
        if record.deadline_at is not None:
            self._timers.set(record.deadline_at, record.seq)
        return live

    def enqueue(self, live: Live) -> None:
        """Have it wait for its turn, as if it had since it came."""
        record, live.place = live.record, "queue"
        self.waiting.push(
            Ticket(
                record.seq,
                record.request_id,
                live.queue,
                record.owner,
                record.priority,
                record.created_at,
            )
        )

    def dequeue(self, live: Live) -> None:
        """Have it wait for its turn no more, if it does."""
        if live.place == "queue":
            self.waiting.remove(live.request_id)
            live.place = "between"

    def defer(self, live: Live) -> None:
        """Have it wait until it is due."""
        live.place = "later"
        self._timers.set(live.record.due_at, live.seq)

    def end_by(self, live: Live, when: float) -> None:
        """Have it end by then."""
        live.ends_by = when
        self._timers.set(when, live.seq)

    def forget(self, live: Live) -> None:
        """Have it no more: it has ended."""
        self.dequeue(live)
        live.place, live.watchers = "over", ()
        del self.by_seq[live.seq], self.by_id[live.request_id]
        # Moments of those that have ended stay, until most of them are such.
        if len(self._timers) > 4 * len(self.by_seq) + _MAX_REMEMBERED:
            lives = self.by_seq.values()
            self._timers.replace(moment for live in lives for moment in _moments(live))

    def tell(self, live: Live, events: Sequence[StoredEvent]) -> None:
        """Tell who watches it."""
        for watcher in (*self.watchers, *live.watchers):
            try:
                watcher.told(events, live.record)
            except Exception:  # the others are told
                _log.exception("a watcher of request %r", live.request_id)

    def look(self) -> None:
        """Ring for those of whose moments one has come."""
        self._timers.look()

    def close(self) -> None:
        """Ring no more."""
        self._timers.close()

    def _rung(self, seq: int, now: float) -> None:
        live = self.by_seq.get(seq)
        if live is not None:
            self._ring(live, now)


def _moments(live: Live) -> Iterator[tuple[float, int]]:
    times = (live.ends_by, live.record.deadline_at)
    yield from ((when, live.seq) for when in times if when is not None)
    if live.place == "later":
        yield live.record.due_at, live.seq
