"""Who waits, for what, and whose turn it is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gen_worker.errors import OverloadedError
from gen_worker.runtime.scheduler import Ticket, Waiting, WaitingLimits


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Queue:
    """A queue in which the requests are named by their owners and numbered as they come."""

    def __init__(self, **limits: Any) -> None:
        self.weights: dict[str, float] = {}
        self.seconds = Seconds()
        self.waiting = Waiting(
            WaitingLimits(**limits),
            weight_of=lambda owner: self.weights.get(owner, 1.0),
            clock=self.seconds,
        )
        self.count = 0

    def push(self, owner: str = "a", priority: int = 0, at: float = 0.0, to: str = "f") -> str:
        self.count += 1
        request_id = f"{owner}{self.count}"
        with self.waiting.room(to, owner):
            self.waiting.push(Ticket(self.count, request_id, to, owner, priority, at))
        return request_id

    def pop(self, function: str = "f") -> str:
        expected = self.waiting.first(function)
        ticket = self.waiting.pop(function)
        assert ticket == expected
        return "" if ticket is None else ticket.request_id

    def drain(self) -> list[str]:
        return list(iter(self.pop, ""))


def test_an_owner_is_served_in_the_order_of_coming() -> None:
    queue = Queue()
    pushed = [queue.push(at=number) for number in range(300)]
    assert queue.drain() == pushed
    assert queue.pop() == ""
    assert queue.waiting.first("f") is None


def test_a_priority_makes_a_request_older() -> None:
    queue = Queue(boost_s=60.0)
    queue.push(at=0.0)  # a1
    queue.push(at=61.0, priority=1)  # a2, as if from 1
    queue.push(at=59.0, priority=1)  # a3, as if from -1
    queue.push(at=0.0, priority=-1)  # a4, as if from 60
    queue.push(at=0.5)  # a5
    assert queue.drain() == ["a3", "a1", "a5", "a2", "a4"]


def test_a_priority_is_worth_only_so_much() -> None:
    queue = Queue(boost_s=60.0, max_priority=10)
    queue.push(at=0.0)
    queue.push(at=601.0, priority=10**9)
    queue.push(at=599.0, priority=10)
    queue.push(at=0.0, priority=-(10**9))
    queue.push(at=599.0)
    assert queue.drain() == ["a3", "a1", "a2", "a5", "a4"]


def test_owners_take_turns_however_many_requests_they_have() -> None:
    queue = Queue()
    for _ in range(4):
        queue.push("a", priority=5)
    queue.push("b")
    queue.push("b")
    assert queue.drain() == ["a1", "b5", "a2", "b6", "a3", "a4"]


def test_owners_have_turns_by_their_weights() -> None:
    queue = Queue()
    queue.weights = {"a": 3.0}
    for owner in "abc":
        for _ in range(200):
            queue.push(owner)
    served = [queue.pop()[0] for _ in range(300)]
    assert [served.count(owner) for owner in "abc"] == [180, 60, 60]
    for start in range(0, 250, 5):
        assert served[start : start + 10].count("a") in (5, 6, 7)


def test_who_comes_late_is_not_paid_for_the_past() -> None:
    queue = Queue()
    for _ in range(100):
        queue.push("a")
    for _ in range(50):
        queue.pop()
    for _ in range(10):
        queue.push("b")
    served = [queue.pop()[0] for _ in range(20)]
    assert served.count("b") == 10
    assert all(served[at] != served[at + 1] for at in range(19))


def test_who_leaves_and_comes_back_gains_nothing() -> None:
    queue = Queue()
    for _ in range(100):
        queue.push("a")
    served = ""
    for _ in range(40):
        if "b" not in served[-1:]:
            queue.push("b")  # always one, and never two
        served += queue.pop()[0]
    assert served.count("b") <= 21
    assert "bb" not in served


def test_functions_do_not_wait_for_each_other() -> None:
    queue = Queue()
    queue.push("a", to="f")
    queue.push("b", to="g")
    assert queue.waiting.lengths() == {"f": 1, "g": 1}
    assert queue.pop("g") == "b2"
    assert queue.waiting.lengths() == {"f": 1}
    assert (queue.waiting.length("f"), queue.waiting.length("g")) == (1, 0)


def test_a_request_that_waits_can_be_taken_out() -> None:
    queue = Queue()
    for owner in "aabb":
        queue.push(owner)
    assert "a2" in queue.waiting
    removed = queue.waiting.remove("a2")
    assert removed is not None
    assert removed.request_id == "a2"
    assert queue.waiting.remove("a2") is None
    assert queue.waiting.position("a2") is None
    assert "a2" not in queue.waiting
    assert queue.drain() == ["a1", "b3", "b4"]
    assert queue.waiting.remove("a1") is None


def test_it_waits_once() -> None:
    queue = Queue()
    queue.push("a")
    with pytest.raises(ValueError, match="waits already"):
        queue.waiting.push(Ticket(9, "a1", "f", "a", 0, 0.0))


def test_the_oldest_is_the_one_that_came_first_whatever_its_turn() -> None:
    queue = Queue()
    assert queue.waiting.oldest("f") is None
    queue.push("a", at=50.0, priority=9)
    queue.push("a", at=10.0, priority=-9)
    queue.push("b", at=30.0)
    assert queue.waiting.oldest("f") == 10.0
    queue.waiting.remove("a2")
    assert queue.waiting.oldest("f") == 30.0
    assert queue.pop() == "a1"
    assert queue.waiting.oldest("f") == 30.0
    assert queue.pop() == "b3"
    assert queue.waiting.oldest("f") is None


@pytest.mark.parametrize(
    ("limit", "value", "who"),
    [("max_requests", 4, "there are"), ("max_per_function", 3, "'f'"), ("max_per_owner", 2, "'a'")],
)
def test_it_is_bounded(limit: str, value: int, who: str) -> None:
    queue = Queue(**{limit: value})
    queue.push("a", to="g")
    for owner in "aab"[: value - (limit != "max_per_owner")]:
        queue.push(owner)
    if limit == "max_per_function":
        queue.push("c")
    with pytest.raises(OverloadedError, match=f"{who}.*submit this one again in 60 seconds"):
        queue.push("a")
    queue.waiting.push(Ticket(99, "again", "f", "a", 0, 0.0))  # was accepted before
    assert "again" in queue.waiting


def test_what_is_on_its_way_in_has_a_place() -> None:
    waiting = Waiting(WaitingLimits(max_per_owner=2))
    with waiting.room("f", "a"), waiting.room("f", "a"):
        with pytest.raises(OverloadedError), waiting.room("f", "a"):
            raise AssertionError("there is no place for a third")
        with waiting.room("f", "b"), waiting.room("g", "a"):
            pass
    with waiting.room("f", "a"):
        waiting.push(Ticket(1, "a1", "f", "a", 0, 0.0))
    with waiting.room("f", "a"):
        pass


def test_when_to_come_back_is_told_by_how_fast_requests_leave() -> None:
    queue = Queue(max_per_function=100, max_per_owner=100)
    for _ in range(100):
        queue.push()
    for _ in range(400):  # ten a second, for longer than the rate remembers
        queue.seconds.now += 0.1
        queue.pop()
        queue.push()
    with pytest.raises(OverloadedError) as caught:
        queue.push()
    assert math.isclose(caught.value.retry_after_s, 1.0, rel_tol=0.05)
    queue.seconds.now += 60  # and then nothing for two of its spans
    with pytest.raises(OverloadedError) as caught:
        queue.push()
    assert 3 < caught.value.retry_after_s < 15


def test_nothing_is_left_of_requests_that_are_gone() -> None:
    """Owners and cancels that come and go leave nothing behind while somebody waits."""
    queue = Queue()
    queue.push("a", at=-1.0, priority=10)
    for number in range(5000):
        queue.waiting.remove(queue.push(f"x{number % 700}-", at=number))
    for number in range(1000):
        queue.push(f"y{number}-", at=number)
        queue.push("a", at=number, priority=10)
        queue.pop()
        queue.pop()
    inner = queue.waiting._queues["f"]
    lines = len(inner.turns._lines)
    assert len(inner._by_age) < 2 * len(queue.waiting) + 100
    assert len(inner.turns._heap) < 2 * lines + 100
    assert len(inner.turns._past) < 2 * lines + 100
