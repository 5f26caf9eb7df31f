"""Turns: few threads compute at once, and who waits for the disk lets others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gen_worker.conversion.lazy.turns import Turns, waiting_for_disk


def test_no_more_threads_compute_than_there_are_turns() -> None:
    turns, lock = Turns(2), threading.Lock()
    now, most = 0, 0
    both = threading.Barrier(2)

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        both.wait(60)
        with lock:
            now -= 1

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(turns.run, work) for _ in range(8)]:
            done.result()
    assert most == 2


def test_who_waits_for_the_disk_lets_another_compute() -> None:
    turns, computed = Turns(1), threading.Event()

    def read() -> bool:
        with waiting_for_disk():
            return computed.wait(60)  # by the other, in the only turn

    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(turns.run, read)
        pool.submit(turns.run, computed.set).result(60)
        assert reading.result(60)


def test_a_turn_is_given_back_after_a_failure() -> None:
    turns = Turns(1)

    def fail() -> None:
        with waiting_for_disk():
            raise OSError("the disk is gone")

    for _ in range(2):
        with pytest.raises(OSError, match="is gone"):
            turns.run(fail)
    assert turns.run(lambda: 7) == 7


def test_without_a_turn_there_is_nothing_to_give() -> None:
    with waiting_for_disk():
        assert Turns(1).run(lambda: 7) == 7


def test_who_holds_a_lock_that_the_others_wait_for_goes_on() -> None:
    turns, lock, reading = Turns(1), threading.Lock(), threading.Event()

    def whole() -> None:
        with lock, waiting_for_disk():
            reading.set()
            both_wait.wait(60)

    both_wait = threading.Event()

    def part() -> None:
        both_wait.set()  # in the turn that was given up
        with lock:
            return

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(turns.run, whole)
        assert reading.wait(60)
        second = pool.submit(turns.run, part)
        first.result(60)
        second.result(60)
