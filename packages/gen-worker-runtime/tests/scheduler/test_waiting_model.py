"""Any order of calls: the fair queue does what a list that is searched each time would do."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gen_worker.errors import OverloadedError
from gen_worker.runtime.scheduler import Ticket, Waiting, WaitingLimits

WEIGHTS = {"a": 1, "b": 1, "c": 2, "d": 4}
"""Powers of two: their turns cost whole numbers, as in the model."""
LIMITS = WaitingLimits(
    max_requests=12, max_per_function=9, max_per_owner=6, boost_s=10.0, max_priority=2
)
FUNCTIONS = ("f", "g")
owners = st.sampled_from(sorted(WEIGHTS))
functions = st.sampled_from(FUNCTIONS)


class Line(NamedTuple):
    """An owner's place in a function's queue."""

    tag: Fraction
    order: int


class Model:
    """One function: a plain list, and what each owner's next turn is numbered."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.lines: dict[str, Line] = {}
        self.past: dict[str, Fraction] = {}
        self.now = Fraction(0)
        self.count = 0
        self.served: dict[str, list[str]] = {}
        """By owner who waits: who had a turn since it came, or had one itself."""

    def push(self, ticket: Ticket) -> None:
        owner = ticket.owner
        if owner not in self.lines:
            self.count += 1
            self.lines[owner] = Line(max(self.now, self.past.get(owner, self.now)), self.count)
            self.served[owner] = []
        self.tickets.append(ticket)

    def order(self, owner: str) -> list[Ticket]:
        def rank(ticket: Ticket) -> tuple[float, int]:
            priority = max(-2, min(ticket.priority, 2))
            return ticket.enqueued_at - 10.0 * priority, ticket.seq

        return sorted((one for one in self.tickets if one.owner == owner), key=rank)

    def pop(self) -> Ticket | None:
        if not self.tickets:
            return None
        owner = min(self.lines, key=lambda name: self.lines[name])
        ticket = self.order(owner)[0]
        line = self.lines[owner]
        self.now = line.tag
        self.lines[owner] = Line(line.tag + Fraction(1, WEIGHTS[owner]), line.order)
        for name, seen in self.served.items():
            if name == owner:
                seen.clear()
            else:
                seen.append(owner)
        self.remove(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        self.tickets.remove(ticket)
        if not self.order(ticket.owner):
            self.past[ticket.owner] = self.lines.pop(ticket.owner).tag
            del self.served[ticket.owner]
        if not self.tickets:
            self.past.clear()
            self.now = Fraction(0)

    def drained(self) -> list[str]:
        copy = Model()
        copy.tickets, copy.lines = list(self.tickets), dict(self.lines)
        copy.past, copy.now, copy.count = dict(self.past), self.now, self.count
        copy.served = {name: [] for name in self.lines}
        return [ticket.request_id for ticket in iter(copy.pop, None)]


class FairQueue(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting(LIMITS, weight_of=WEIGHTS.__getitem__, clock=lambda: 0.0)
        self.models = {function: Model() for function in FUNCTIONS}
        self.clock = 0.0
        self.count = 0

    def tickets(self) -> list[Ticket]:
        return [ticket for model in self.models.values() for ticket in model.tickets]

    @rule(function=functions, owner=owners, priority=st.integers(-4, 4), later=st.integers(0, 15))
    def submit(self, function: str, owner: str, priority: int, later: int) -> None:
        self.clock += later
        self.count += 1
        ticket = Ticket(self.count, f"r{self.count}", function, owner, priority, self.clock)
        here = self.models[function].tickets
        is_full = (
            len(self.tickets()) >= LIMITS.max_requests
            or len(here) >= LIMITS.max_per_function
            or sum(one.owner == owner for one in here) >= LIMITS.max_per_owner
        )
        if is_full:
            with pytest.raises(OverloadedError), self.waiting.room(function, owner):
                raise AssertionError("it is beyond its bounds")
            return
        with self.waiting.room(function, owner):
            self.waiting.push(ticket)
        self.models[function].push(ticket)

    @rule(function=functions)
    def pop(self, function: str) -> None:
        model = self.models[function]
        expected = model.pop()
        assert self.waiting.pop(function) == expected
        for owner, seen in model.served.items():
            # Nobody starves: between two turns of one owner another has only so many.
            for other in set(seen):
                assert seen.count(other) <= 1 + WEIGHTS[other] / WEIGHTS[owner]

    @precondition(lambda self: self.tickets())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets()))
        assert self.waiting.remove(ticket.request_id) == ticket
        self.models[ticket.function].remove(ticket)

    @precondition(lambda self: self.tickets())
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        """What is given to a worker that is lost waits again, bounds or not."""
        function = data.draw(st.sampled_from(sorted({one.function for one in self.tickets()})))
        ticket = self.waiting.pop(function)
        assert ticket == self.models[function].pop()
        assert ticket is not None
        self.waiting.push(ticket)
        self.models[function].push(ticket)

    @invariant()
    def positions_are_exact(self) -> None:
        for model in self.models.values():
            for position, request_id in enumerate(model.drained()):
                assert self.waiting.position(request_id) == position

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.waiting) == len(self.tickets())
        for function, model in self.models.items():
            assert self.waiting.length(function) == len(model.tickets)
            oldest = min((ticket.enqueued_at for ticket in model.tickets), default=None)
            assert self.waiting.oldest(function) == oldest


TestFairQueue = FairQueue.TestCase
TestFairQueue.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
