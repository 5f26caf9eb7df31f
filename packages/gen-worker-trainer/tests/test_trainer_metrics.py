"""Metrics have the names that charts know, and a learning rate wherever it can be found."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from gen_worker.trainer import StepResult
from gen_worker.trainer.metrics import metrics_of, nonfinite_word

_OPTIMIZER = SimpleNamespace(param_groups=[{"lr": 0.25}])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"loss": 2.5}, {"train/loss": 2.5}),
        ({" Train_Loss ": 1}, {"train/loss": 1.0}),
        ({"lr": 1, "eval/loss": 3, "Accuracy": True}, None),
        ({"learning_rate": "0.5"}, {"train/lr": 0.5}),
        ({"train_lr": 0.5, "train/loss": 1.0}, {"train/lr": 0.5, "train/loss": 1.0}),
    ],
)
def test_names(given: dict[str, Any], named: dict[str, float] | None) -> None:
    expected = named or {"train/lr": 1.0, "eval/loss": 3.0, "Accuracy": 1.0}

    assert metrics_of(StepResult(given)) == expected


@pytest.mark.parametrize(
    ("debug", "state", "optimizer", "rate"),
    [
        ({"lr": 0.1}, {"lr": 0.2}, _OPTIMIZER, 0.1),
        ({"train/lr": 0.3, "lr": 0.1}, None, None, 0.3),
        ({"lr": "fast"}, {"learning_rate": 0.001}, _OPTIMIZER, 0.001),
        ({}, {"step": 1}, _OPTIMIZER, 0.25),
        ({}, {"optimizer": _OPTIMIZER}, None, 0.25),
        ({}, object(), None, None),
        ({}, {"optimizer": SimpleNamespace(param_groups=[])}, None, None),
        ({}, {"optimizer": SimpleNamespace(param_groups=[{}])}, None, None),
    ],
)
def test_where_the_learning_rate_is_found(
    debug: Any, state: Any, optimizer: Any, rate: float | None
) -> None:
    metrics = metrics_of(StepResult({"loss": 1}, debug), state=state, optimizer=optimizer)

    assert metrics.get("train/lr") == rate


def test_a_rate_that_was_reported_comes_first() -> None:
    assert metrics_of(StepResult({"lr": 1.0}, {"lr": 2.0})) == {"train/lr": 1.0}


def test_anything_with_metrics_will_do() -> None:
    assert metrics_of(SimpleNamespace(metrics={"loss": 1})) == {"train/loss": 1.0}


@pytest.mark.parametrize("result", [None, {"loss": 1}, 0.5, SimpleNamespace(metrics=[1])])
def test_what_is_no_result(result: Any) -> None:
    with pytest.raises(TypeError, match="StepResult-like"):
        metrics_of(result)


def test_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="metric 'loss' is no number"):
        metrics_of(SimpleNamespace(metrics={"loss": "low"}))


@pytest.mark.parametrize(
    ("value", "word"),
    [(1.0, ""), (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (0.0, "")],
)
def test_numbers_that_json_has_no_word_for(value: float, word: str) -> None:
    assert nonfinite_word(value) == word
