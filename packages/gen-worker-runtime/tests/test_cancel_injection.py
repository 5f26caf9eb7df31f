"""Canceled at random moments, blocking handlers leave no lock held and no block cut in half.

`INJECTION_SEEDS=10` runs 1,000 cancels instead of the usual 300.
"""

import contextlib
import dis
import io
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.cancel import Interrupted, shield
from gen_worker.runtime.engine import interrupt
from gen_worker.runtime.engine.interrupt import Interrupter, Region
from gen_worker.testing import EndpointTester, TesterCall

SEEDS = range(int(os.environ.get("INJECTION_SEEDS", "3")))
PER_SEED = 100

PLAIN, MANAGED, REENTRANT = threading.Lock(), threading.Lock(), threading.RLock()
LOGGER = logging.Logger("mix")
HANDLER = logging.StreamHandler(io.StringIO())
LOGGER.addHandler(HANDLER)


class Balance:
    """Counts what was begun and what was ended; a cut block leaves a difference."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0

    def __enter__(self) -> None:
        self.begun += 1

    def __exit__(self, *error: object) -> None:
        for _ in range(10):
            pass
        self.ended += 1


BLOCKS, MANAGERS, FINALLIES, GENERATORS, SHIELDS = (Balance() for _ in range(5))


class Nothing(msgspec.Struct):
    pass


class Item(msgspec.Struct):
    number: int


@contextlib.contextmanager
def managed() -> Iterator[None]:
    MANAGERS.begun += 1
    try:
        yield
    finally:
        for _ in range(10):
            pass
        MANAGERS.ended += 1


def numbers() -> Iterator[int]:
    GENERATORS.begun += 1
    try:
        yield from range(5)
    finally:
        for _ in range(10):
            pass
        GENERATORS.ended += 1


def mix_once(ctx: RequestContext) -> None:
    """Do a little of everything that must not be cut in half."""
    with MANAGED:
        sum(range(30))
    PLAIN.acquire()
    try:
        sum(range(30))
    finally:
        PLAIN.release()
    with REENTRANT, BLOCKS:
        for _ in range(20):
            pass
    with managed():
        for _ in range(20):
            pass
    LOGGER.warning("still %s", "running")
    for _ in numbers():
        pass
    begun = False
    try:
        FINALLIES.begun += 1
        begun = True
        sum(range(30))
    finally:
        if begun:
            FINALLIES.ended += 1
    with shield():
        SHIELDS.begun += 1
        for _ in range(30):
            pass
        SHIELDS.ended += 1
    ctx.progress(0.5)


@inference_function
def mix(ctx: RequestContext, payload: Nothing) -> Item:
    while True:
        mix_once(ctx)


@inference_function
def mix_and_yield(ctx: RequestContext, payload: Nothing) -> Iterator[Item]:
    number = 0
    with BLOCKS:
        while True:
            mix_once(ctx)
            number += 1
            yield Item(number)


def nothing_is_left() -> None:
    """Check that every lock is free and every block that was entered was left."""
    for lock in (PLAIN, MANAGED, REENTRANT, HANDLER.lock):
        assert lock is not None
        assert lock.acquire(timeout=30), f"{lock} is held by nobody who runs"
        lock.release()
    for balance in (BLOCKS, MANAGERS, GENERATORS, SHIELDS):
        assert balance.begun == balance.ended
    assert FINALLIES.begun - FINALLIES.ended in (0, 1)  # `begun` may be counted and not set yet
    FINALLIES.ended = FINALLIES.begun


@pytest.mark.parametrize("function", [mix, mix_and_yield])
@pytest.mark.parametrize("seed", SEEDS)
def test_cancels_at_random_moments(function: Any, seed: int) -> None:
    chance = random.Random(seed)
    with EndpointTester(function) as tester:
        for _ in range(PER_SEED // 2):
            call = tester.start(function)
            call.wait_until_started()
            time.sleep(chance.random() * 0.003)
            call.cancel()
            failure = call.wait().failure
            assert failure is not None
            assert failure.error_type == "canceled"
            nothing_is_left()
        statistics = tester.statistics()
        assert statistics.canceled == PER_SEED // 2
        assert statistics.stuck_threads == 0
        assert statistics.running == statistics.queued == 0


class Occupant:
    region: Region | None = None


def test_an_interrupt_never_escapes_its_region() -> None:
    """Thrown right when handlers end by themselves, none appears in the code around them."""
    interrupter, escaped, results = Interrupter(), [], []

    def short() -> None:
        for _ in range(100):
            pass

    def cancel_soon(region: Region, occupant: Occupant, delay_s: float) -> None:
        time.sleep(delay_s)
        interrupter.interrupt(region, occupant)

    def worker() -> None:
        region, chance = Region(), random.Random(0)
        for _ in range(200):
            occupant = Occupant()
            occupant.region = region
            arguments = (region, occupant, chance.random() * 0.001)
            canceler = threading.Thread(target=cancel_soon, args=arguments)
            canceler.start()
            try:
                while canceler.is_alive():
                    region.call(occupant, short)
                results.append(True)
            except Interrupted:
                results.append(False)
            finally:
                occupant.region = None
            try:
                canceler.join()
                short()
            except Interrupted:
                escaped.append(1)

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join()
    interrupter.close()
    assert not escaped
    assert len(results) == 200
    assert False in results, "no interrupt hit at all"


def test_a_thread_that_went_deeper_from_the_same_instruction_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it is judged the thread moves on, into what the instruction calls."""
    gate, deeper, done = threading.Lock(), threading.Event(), threading.Event()
    gate.acquire()

    def callee(_: bool) -> bool:
        deeper.set()
        return done.wait(60)

    def handler() -> bool:
        return next(map(callee, iter(gate.acquire, None)))  # waits in C, and then calls Python

    def judge(*_: object, **__: object) -> bool:
        gate.release()
        return deeper.wait(60)

    regions: list[Region] = []
    answers: list[bool] = []

    def run() -> None:
        regions.append(Region())
        answers.append(regions[0].call(occupant, handler))

    occupant = Occupant()
    thread = threading.Thread(target=run)
    thread.start()
    call = max(one.offset for one in dis.get_instructions(handler) if one.opname == "CALL")
    while not (regions and waits_at(regions[0].ident, handler, call)):
        time.sleep(0.001)
    monkeypatch.setattr(interrupt, "is_interruptible", judge)
    assert not regions[0].throw(occupant, 0.0)
    done.set()
    thread.join(60)
    assert answers == [True]


def waits_at(ident: int, function: Any, at: int) -> bool:
    frame = sys._current_frames()[ident]
    return frame.f_code is function.__code__ and frame.f_lasti >= at


def test_many_at_once(tmp_path: Any) -> None:
    """Eight handlers at a time, canceled in random order: all stop, and the threads stay."""
    chance = random.Random(0)
    with EndpointTester(mix) as tester:
        for _ in range(5):
            calls: list[TesterCall] = [tester.start(mix) for _ in range(8)]
            chance.shuffle(calls)
            for call in calls:
                call.cancel()
            failures = [call.wait().failure for call in calls]
            assert all(failure and failure.error_type == "canceled" for failure in failures)
    nothing_is_left()
