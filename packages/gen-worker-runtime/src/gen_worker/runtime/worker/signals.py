"""Signals and answers that wait for the control stream."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.runtime.worker.outbox import Outgoing

__all__ = ["SignalQueue"]

_log = logging.getLogger("gen_worker.worker")


class SignalQueue:
    """In the order they came; of those that say the same, the newest. For one thread, the loop's.

    A connection that is lost keeps a handful waiting. What fills the queue is an orchestrator that
    sends commands and does not read their answers: then the oldest goes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[object, Outgoing] = {}
        self.replaced = 0
        """Signals that were not sent because a newer one says it all, ever."""
        self.dropped = 0
        """Those that were not sent for want of room, ever."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, outgoing: Outgoing) -> None:
        """Take one; what waits under the same key, if it has one, is not sent."""
        key = outgoing.key if outgoing.key is not None else object()
        if self._waiting.pop(key, None) is not None:
            self.replaced += 1
        elif len(self._waiting) >= self._limit:
            self._drop()
        self._waiting[key] = outgoing

    def put_back(self, outgoing: Outgoing) -> None:
        """Take one back that could not be written; it is the oldest, and goes first."""
        key = outgoing.key if outgoing.key is not None else object()
        if key in self._waiting:
            self.replaced += 1
        else:
            self._waiting = {key: outgoing, **self._waiting}

    def discard(self, key: object) -> None:
        """Do not send what waits under a key."""
        self._waiting.pop(key, None)

    def next(self) -> Outgoing | None:
        """Return what is to be written now."""
        return self._waiting.pop(next(iter(self._waiting))) if self._waiting else None

    def _drop(self) -> None:
        if not self.dropped:
            _log.warning("%d answers wait and are not read: the oldest are dropped", self._limit)
        self.dropped += 1
        del self._waiting[next(iter(self._waiting))]
