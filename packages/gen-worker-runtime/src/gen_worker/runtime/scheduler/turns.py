"""Whose turn it is in the queue of one function.

Owners take turns by start-time fair queueing (Goyal, Vin and Cheng, 1996), with whole numbers for
tags, so that a position can be told exactly. An owner's own requests are in the order of their
ranks. Between two turns of an owner who waits, another has at most `1 + its weight / the owner's`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from typing import NamedTuple

__all__ = ["Entry", "Ticket", "Turns"]

_UNIT = 1 << 20
"""What a turn costs an owner of weight 1."""
_SLACK = 64


class Ticket(NamedTuple):
    """A request that waits."""

    seq: int
    request_id: str
    function: str
    """The queue it waits in: whatever names what a worker can be asked for."""
    owner: str
    priority: int
    enqueued_at: float
    """Seconds; of a request that waits again, when it came first."""


class Entry(NamedTuple):
    """A ticket in its owner's line."""

    rank: float
    seq: int
    ticket: Ticket


class _Line:
    """One owner's requests, by rank.

    A list: to insert moves 8 bytes for each that comes after, which are few, as most come last.
    """

    __slots__ = ("_entries", "_first", "order", "owner", "start", "stride")

    def __init__(self, owner: str, start: int, stride: int, order: int) -> None:
        self.owner = owner
        self.start = start
        """Tag of its next turn."""
        self.stride = stride
        self.order = order
        """Of lines with the same tag the one that came first has its turn first."""
        self._entries: list[Entry] = []
        self._first = 0

    def __len__(self) -> int:
        return len(self._entries) - self._first

    def add(self, entry: Entry) -> None:
        insort(self._entries, entry, lo=self._first)

    def first(self) -> Ticket:
        return self._entries[self._first].ticket

    def pop(self) -> Ticket:
        ticket = self.first()
        self._first += 1
        if self._first > _SLACK and 2 * self._first > len(self._entries):
            del self._entries[: self._first]
            self._first = 0
        return ticket

    def index(self, entry: Entry) -> int:
        return bisect_left(self._entries, entry, lo=self._first) - self._first

    def remove(self, entry: Entry) -> None:
        del self._entries[self._first + self.index(entry)]

    def turns_before(self, tag: int, order: int) -> int:
        """Return how many turns it has before a turn with this tag of a line of this order."""
        wait = tag - self.start
        if wait < 0:
            return 0
        turns = -(-wait // self.stride)
        is_even = wait % self.stride == 0
        return min(turns + (is_even and self.order < order), len(self))


class Turns:
    """The requests that wait for one function, at least while there are any."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._heap: list[tuple[int, int, _Line]] = []
        """Tag, order and line of each; a line that is gone, or has another tag, counts no more."""
        self._past: dict[str, int] = {}
        """Tags that owners without requests had come to: who comes back does not gain by it."""
        self._now = 0
        """Tag of the latest turn."""
        self._count = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def length_of(self, owner: str) -> int:
        return len(self._lines.get(owner, ()))

    def push(self, entry: Entry, weight: float) -> None:
        """Add a request.

        Args:
            entry: A seq that does not wait yet.
            weight: Of the owner, greater than 0; counts when it had none waiting.
        """
        owner = entry.ticket.owner
        line = self._lines.get(owner)
        if line is None:
            start = max(self._now, self._past.pop(owner, 0))
            self._count += 1
            line = _Line(owner, start, max(1, round(_UNIT / weight)), self._count)
            self._lines[owner] = line
            heapq.heappush(self._heap, (start, line.order, line))
        line.add(entry)
        self._length += 1

    def first(self) -> Ticket:
        """Return the request whose turn it is; there has to be one."""
        return self._next_line().first()

    def pop(self) -> Ticket:
        """Take the request whose turn it is; there has to be one."""
        line = self._next_line()
        ticket = line.pop()
        self._length -= 1
        self._now = line.start
        line.start += line.stride
        if line:
            heapq.heapreplace(self._heap, (line.start, line.order, line))
        else:
            heapq.heappop(self._heap)
            self._leave(line)
        return ticket

    def remove(self, entry: Entry) -> None:
        """Take a request out that was pushed."""
        line = self._lines[entry.ticket.owner]
        line.remove(entry)
        self._length -= 1
        if not line:
            self._leave(line)

    def ahead_of(self, entry: Entry) -> int:
        """Return how many have their turn before a request that waits, if nobody else comes."""
        own = self._lines[entry.ticket.owner]
        index = own.index(entry)
        tag = own.start + index * own.stride
        others = (line for line in self._lines.values() if line is not own)
        return index + sum(line.turns_before(tag, own.order) for line in others)

    def _next_line(self) -> _Line:
        while True:
            start, _, line = self._heap[0]
            if self._lines.get(line.owner) is line and line.start == start:
                return line
            heapq.heappop(self._heap)

    def _leave(self, line: _Line) -> None:
        del self._lines[line.owner]
        if not self._lines:
            self._past.clear()
            self._heap.clear()
            self._now = 0
            return
        if line.start > self._now:
            self._past[line.owner] = line.start
        if len(self._past) > 2 * len(self._lines) + _SLACK:
            self._past = {owner: tag for owner, tag in self._past.items() if tag > self._now}
        if len(self._heap) > 2 * len(self._lines) + _SLACK:
            self._heap = [(line.start, line.order, line) for line in self._lines.values()]
            heapq.heapify(self._heap)
