"""The requests that wait for a worker, in memory: bounded, and nobody waits for ever.

A priority acts as if the request had come so much earlier, so it is overtaken only by what comes
within the time that priorities are worth; and owners take turns, whatever their priorities.
"""

from __future__ import annotations

import heapq
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import OverloadedError
from gen_worker.runtime.scheduler.turns import Entry, Ticket, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Ticket", "Waiting", "WaitingLimits"]

_RATE_OVER_S = 30.0
_DRAINED = 0.1
"""How much of a full queue has to be gone before it is worth to ask again."""
_RETRY_AFTER_S = (1.0, 60.0)
_SLACK = 64


class WaitingLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what waits, and what a priority is worth."""

    max_requests: int = 200_000
    max_per_function: int = 100_000
    max_per_owner: int = 50_000
    """In one function; less than all of it, so that nobody can keep the others out."""
    boost_s: float = 60.0
    """By how much a priority of 1 makes a request older."""
    max_priority: int = 10
    """Greater ones count as this, and less than its negative as that."""


class _Queue:
    """What waits for one function, and how fast it goes; gone when nothing waits."""

    def __init__(self, now: float) -> None:
        self.turns = Turns()
        self._by_age: list[tuple[float, int]] = []
        self._seqs: set[int] = set()
        self._began_at = now
        self._popped = 0.0
        self._popped_at = now

    def push(self, entry: Entry, weight: float) -> None:
        self.turns.push(entry, weight)
        self._seqs.add(entry.seq)
        if len(self._by_age) > 2 * len(self._seqs) + _SLACK:
            self._by_age = [one for one in self._by_age if one[1] in self._seqs]
            heapq.heapify(self._by_age)
        heapq.heappush(self._by_age, (entry.ticket.enqueued_at, entry.seq))

    def pop(self, now: float) -> Ticket:
        ticket = self.turns.pop()
        self._seqs.discard(ticket.seq)
        self._popped = self._popped_until(now) + 1
        self._popped_at = now
        return ticket

    def remove(self, entry: Entry) -> None:
        self.turns.remove(entry)
        self._seqs.discard(entry.seq)

    def oldest(self) -> float:
        while self._by_age[0][1] not in self._seqs:
            heapq.heappop(self._by_age)
        return self._by_age[0][0]

    def retry_after_s(self, limit: int, now: float) -> float:
        least, most = _RETRY_AFTER_S
        age = max(now - self._began_at, 1.0)
        per_s = self._popped_until(now) / (_RATE_OVER_S * -math.expm1(-age / _RATE_OVER_S))
        return min(max(limit * _DRAINED / per_s, least), most) if per_s else most

    def _popped_until(self, now: float) -> float:
        """Return how many were popped lately; what is longer ago counts less."""
        return self._popped * math.exp((self._popped_at - now) / _RATE_OVER_S)


class Waiting:
    """The fair queue of a scheduler. On one thread."""

    def __init__(
        self,
        limits: WaitingLimits | None = None,
        *,
        weight_of: Callable[[str], float] = lambda _owner: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nobody.

        Args:
            limits: Bounds.
            weight_of: An owner's share compared with others', greater than 0; asked when the owner
                begins to wait for a function.
            clock: Seconds, for how fast requests leave.
        """
        self._limits = limits or WaitingLimits()
        self._weight_of = weight_of
        self._clock = clock
        self._queues: dict[str, _Queue] = {}
        self._entries: dict[str, Entry] = {}
        """By request id."""
        self._coming: dict[tuple[str, ...], int] = {}
        """Requests on their way in: in all, by function, by function and owner."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._entries

    # -- in ----------------------------------------------------------------------------------------

    @contextmanager
    def room(self, function: str, owner: str) -> Iterator[None]:
        """Hold a place for a new request, until it was pushed or given up.

        Raises:
            OverloadedError: Too many wait, here or in all, or too many of this owner.
        """
        self._refuse_beyond_bounds(function, owner)
        coming, keys = self._coming, ((), (function,), (function, owner))
        for key in keys:
            coming[key] = coming.get(key, 0) + 1
        try:
            yield
        finally:
            for key in keys:
                coming[key] -= 1
                if not coming[key]:
                    del coming[key]

    def push(self, ticket: Ticket) -> None:
        """Have a request wait. What was accepted once is never refused here.

        Raises:
            ValueError: It waits already.
        """
        if ticket.request_id in self._entries:
            raise ValueError(f"{ticket.request_id!r} waits already: push it once")
        limits = self._limits
        priority = max(-limits.max_priority, min(ticket.priority, limits.max_priority))
        entry = Entry(ticket.enqueued_at - priority * limits.boost_s, ticket.seq, ticket)
        queue = self._queues.get(ticket.function)
        if queue is None:
            queue = self._queues[ticket.function] = _Queue(self._clock())
        queue.push(entry, self._weight_of(ticket.owner))
        self._entries[ticket.request_id] = entry

    # -- out ---------------------------------------------------------------------------------------

    def first(self, function: str) -> Ticket | None:
        """Return the request whose turn it is; None when nobody waits."""
        queue = self._queues.get(function)
        return None if queue is None else queue.turns.first()

    def pop(self, function: str) -> Ticket | None:
        """Take the request whose turn it is; None when nobody waits."""
        queue = self._queues.get(function)
        if queue is None:
            return None
        ticket = queue.pop(self._clock())
        self._forget(ticket)
        return ticket

    def remove(self, request_id: str) -> Ticket | None:
        """Take a request out, whoever's turn it is; None when it does not wait."""
        entry = self._entries.get(request_id)
        if entry is None:
            return None
        self._queues[entry.ticket.function].remove(entry)
        self._forget(entry.ticket)
        return entry.ticket

    def _forget(self, ticket: Ticket) -> None:
        del self._entries[ticket.request_id]
        if not self._queues[ticket.function].turns:
            del self._queues[ticket.function]

    # -- what is known -----------------------------------------------------------------------------

    def position(self, request_id: str) -> int | None:
        """Return how many have their turn before, if nobody else comes; None: it does not wait.

        Takes as long as there are owners who wait for the function.
        """
        entry = self._entries.get(request_id)
        return None if entry is None else self._queues[entry.ticket.function].turns.ahead_of(entry)

    def lengths(self) -> dict[str, int]:
        """Return how many wait, by function; functions nobody waits for are left out."""
        return {function: len(queue.turns) for function, queue in self._queues.items()}

    def length(self, function: str) -> int:
        queue = self._queues.get(function)
        return 0 if queue is None else len(queue.turns)

    def oldest(self, function: str) -> float | None:
        """Return when the one came that waits longest; None when nobody waits."""
        queue = self._queues.get(function)
        return None if queue is None else queue.oldest()

    def _refuse_beyond_bounds(self, function: str, owner: str) -> None:
        limits, coming, queue = self._limits, self._coming, self._queues.get(function)
        of_owner = 0 if queue is None else queue.turns.length_of(owner)
        of_owner += coming.get((function, owner), 0)
        here = self.length(function) + coming.get((function,), 0)
        in_all = len(self._entries) + coming.get((), 0)
        for count, limit, who in (
            (of_owner, limits.max_per_owner, f"{owner!r} has"),
            (here, limits.max_per_function, f"{function!r} has"),
            (in_all, limits.max_requests, "there are"),
        ):
            if count >= limit:
                wait_s = _RETRY_AFTER_S[1]
                if queue is not None:
                    wait_s = queue.retry_after_s(limit, self._clock())
                raise OverloadedError(
                    f"{who} {count} requests waiting already, at most {limit} may wait: "
                    f"submit this one again in {math.ceil(wait_s)} seconds",
                    retry_after_s=wait_s,
                )
