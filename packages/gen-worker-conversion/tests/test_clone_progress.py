"""How far an import is: told in steps, and every few seconds within one."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from gen_worker.clone.progress import CloneProgress


class Follower:
    """Where a job's progress goes."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.has_beaten = threading.Event()

    def emit(self, event_type: str, payload: dict[str, Any]) -> None:
        self.told.append(payload)
        if len(self.told) >= 4:
            self.has_beaten.set()

    def progress(self, progress: float, stage: str) -> None:
        assert self.told[-1]["stage"] == stage


def test_progress_is_told_while_nothing_arrives() -> None:
    follower: Any = Follower()
    progress = CloneProgress(follower, heartbeat_s=0.01)
    with progress.downloading() as watch:
        watch(50, 100)
        assert follower.has_beaten.wait(60)
    told = follower.told
    assert [one["progress"] for one in told[:1] + told[-1:]] == [0.25, 0.55]
    assert {one["progress"] for one in told[2:-1]} == {0.4}
    assert all(
        {"elapsed_s", "bytes_done", "bytes_total", "bytes_per_s"} <= one.keys() for one in told
    )
    count = len(told)
    assert not any(thread.name == "gen-worker-clone-progress" for thread in threading.enumerate())
    assert len(told) == count


def test_each_flavor_has_its_share() -> None:
    progress = CloneProgress(cast("Any", Follower()))
    assert [progress.share(number, 2) for number in (0, 1)] == [
        pytest.approx((0.6, 0.725)),
        pytest.approx((0.725, 0.85)),
    ]
    assert progress.repackage_share(0, 1) == pytest.approx((0.9, 0.94))
