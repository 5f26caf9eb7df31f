"""Calls that were taken in just now are kept for who is given them at once."""

from __future__ import annotations

from gen_worker.runtime.scheduler.requests.calls import Calls
from gen_worker.runtime.scheduler.values import StoredCall


def call(number: int, size_bytes: int = 60_000) -> StoredCall:
    return StoredCall(bytes([number]) * size_bytes, b"options")


def test_a_call_is_kept_until_it_is_taken() -> None:
    calls = Calls()
    calls.keep(1, call(1))
    assert calls.take(1) == call(1)
    assert calls.take(1) is None
    assert calls.take(2) is None


def test_the_oldest_make_room_and_large_ones_are_not_kept() -> None:
    calls = Calls()
    calls.keep(0, call(0, 100_000))
    for number in range(1, 101):
        calls.keep(number, call(number))
    kept = [number for number in range(101) if calls.take(number) is not None]
    assert kept == list(range(101 - len(kept), 101))
    assert 15 <= len(kept) <= 18  # as many as fit into 1 MiB
    for number in range(1, 101):  # and all of the room is there again
        calls.keep(number, call(number))
    assert [calls.take(number) is not None for number in range(101)].count(True) == len(kept)
