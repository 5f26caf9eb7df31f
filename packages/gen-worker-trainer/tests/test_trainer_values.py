"""The values a trainer class exchanges with its loop."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gen_worker.trainer import (
    StepContext,
    StepControlHints,
    StepResult,
    TrainingJobSpec,
)


def test_a_job_needs_an_id_and_a_length() -> None:
    job = TrainingJobSpec("r1", 100)

    assert (job.trainer_api_version, job.metric_every) == ("v1", 10)
    assert (job.checkpoint_every, job.sample_every) == (0, 0)
    assert (job.owner, job.release_ref, job.hyperparams) == ("", "", {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"request_id": ""}, "request_id must not be empty"),
        ({"trainer_api_version": ""}, "trainer_api_version must not be empty"),
        ({"max_steps": -1}, "max_steps must not be negative, it is -1"),
        ({"metric_every": -2}, "metric_every must not be negative"),
        ({"checkpoint_every": -3}, "checkpoint_every must not be negative"),
        ({"sample_every": -4}, "sample_every must not be negative"),
    ],
)
def test_a_job_no_loop_could_run_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingJobSpec(**{"request_id": "r", "max_steps": 1, **fields})


def test_all_mistakes_of_a_job_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"request_id must not be empty; max_steps must not"):
        TrainingJobSpec("", -1)


def test_a_job_is_read_from_json() -> None:
    text = b'{"request_id": "r", "max_steps": 3, "hyperparams": {"lr": 0.1}}'

    assert msgspec.json.decode(text, type=TrainingJobSpec) == TrainingJobSpec(
        "r", 3, hyperparams={"lr": 0.1}
    )
    with pytest.raises(msgspec.ValidationError, match="max_steps must not be negative"):
        msgspec.json.decode(b'{"request_id": "r", "max_steps": -3}', type=TrainingJobSpec)


def test_values_are_made_as_documented() -> None:
    job = TrainingJobSpec("r", 1)
    context = StepContext(job)
    result = StepResult({"loss": 0.5}, {"note": "x"}, StepControlHints(True, 1.5))

    assert (context.model_handles, context.dataset, context.optimizer) == ({}, None, None)
    assert (context.scheduler, context.device, context.dtype) == (None, "cuda:0", "bf16")
    assert context.is_canceled is None
    assert StepContext(job=job, device="cpu", is_canceled=lambda: True).is_canceled is not None
    assert result.control == StepControlHints(skip_cadence_emit=True, backoff_seconds=1.5)
    assert (StepResult().metrics, StepResult().debug, StepResult().control) == ({}, {}, None)


def test_defaults_are_not_shared() -> None:
    StepResult().metrics["loss"] = 1.0

    assert StepResult().metrics == {}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (TrainingJobSpec("r", 1), "max_steps"),
        (StepContext(TrainingJobSpec("r", 1)), "device"),
        (StepResult(), "metrics"),
        (StepControlHints(), "backoff_seconds"),
    ],
)
def test_values_are_frozen(value: Any, field: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, field, None)
