"""Which checkpoints stay because they are the best."""

from __future__ import annotations

import math
from typing import Literal

import pytest

from gen_worker.trainer.checkpoints import Checkpoint, Keeping
from gen_worker.trainer.checkpoints.retention import superfluous

_SCORES = {2: 0.5, 4: 0.9, 6: 0.1, 8: 0.9, 10: math.nan, 12: 0.4}
"""By step; what is no number is not kept, and so judged like a checkpoint without the metric."""


def kept(keeping: Keeping) -> list[int]:
    made = [
        Checkpoint(
            step=step,
            request_id="r",
            state={},
            metrics={"eval/score": score} if math.isfinite(score) else {"train/loss": 0.0},
        )
        for step, score in _SCORES.items()
    ]
    final = Checkpoint(step=12, request_id="r", state={}, final=True)
    gone = superfluous([*reversed(made), final], keeping)
    assert final not in gone
    assert gone == sorted(gone, key=lambda one: one.step)
    return [one.step for one in made if one not in gone]


@pytest.mark.parametrize(
    ("best", "mode", "steps"),
    [
        (1, "max", [8, 12]),
        (2, "max", [4, 8, 12]),
        (3, "max", [2, 4, 8, 12]),
        (1, "min", [6, 12]),
        (2, "min", [6, 12]),
        (3, "min", [2, 6, 12]),
        (9, "min", [2, 4, 6, 8, 12]),
    ],
)
def test_the_best_stay_beside_the_last(
    best: int, mode: Literal["min", "max"], steps: list[int]
) -> None:
    assert kept(Keeping(last=1, best=best, metric="eval/score", mode=mode)) == steps


def test_of_a_metric_that_nobody_reports_the_last_stay() -> None:
    assert kept(Keeping(last=2, best=3, metric="eval/other")) == [10, 12]


def test_a_best_needs_a_measure() -> None:
    with pytest.raises(ValueError, match="by which metric"):
        Keeping(last=1, best=1)
