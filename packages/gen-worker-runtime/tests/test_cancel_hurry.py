"""How long a cancel keeps the interpreter's switch interval short."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from gen_worker.runtime.engine.interrupt import Interrupter, Pending, Region
from gen_worker.runtime.engine.switching import SWITCH_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDINARY_S = sys.getswitchinterval()


class Handler:
    """What is canceled; it stands in its region for as long as `region` says so."""

    def __init__(self, region: Region | None) -> None:
        self.region = region


@pytest.fixture
def region() -> Region:
    return Region()


@pytest.fixture
def pending(region: Region) -> Iterator[Pending]:
    pending = Pending(region, Handler(region))
    yield pending
    SWITCH_INTERVAL.release(pending)


def test_the_answer_of_a_stopped_handler_is_hurried_too(pending: Pending) -> None:
    stopped_at = pending.since + 3.0
    pending.occupant.region = None
    assert pending.advance(stopped_at)
    assert sys.getswitchinterval() < ORDINARY_S
    assert pending.look_at > stopped_at
    assert not pending.advance(pending.look_at)


def test_nobody_is_hurried_half_of_the_time_once_a_handler_is_as_good_as_stuck(
    pending: Pending,
) -> None:
    now, intervals = pending.since, []
    for _ in range(4):
        assert pending.advance(now)
        intervals.append(sys.getswitchinterval())
        now = pending.look_at + 3.0
    assert intervals[0] < ORDINARY_S
    assert sorted(interval == ORDINARY_S for interval in intervals[1:3]) == [False, True]


def test_the_interval_is_put_back_when_the_watcher_ends(region: Region) -> None:
    interrupter = Interrupter()
    interrupter.interrupt(region, Handler(region))
    interrupter.close()
    assert sys.getswitchinterval() == ORDINARY_S
