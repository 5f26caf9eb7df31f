"""Events are lines that any reader can follow, over restarts and kills."""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer.cancel import RuntimeCancelPolicy
from gen_worker.trainer.reporter import LocalTrainingReporter

if TYPE_CHECKING:
    from pathlib import Path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_events_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gen_worker.trainer")
    path = tmp_path / "made" / "events.jsonl"
    reporter = LocalTrainingReporter(path)

    reporter.started(request_id="run-7")
    reporter.metric(name="train/loss", value=0.5, step=1)
    reporter.checkpoint(path="/c/step-1.json", step=1)
    reporter.sample(path="/s/step-1.png", step=1)
    reporter.completed(step=1, final_checkpoint=None)

    told = lines(path)
    assert [one.pop("seq") for one in told] == [1, 2, 3, 4, 5]
    assert all(one.pop("timestamp_ms") > 1_700_000_000_000 for one in told)
    common = {"schema_version": "trainer_event.v1", "request_id": "run-7"}
    assert told == [
        {**common, "event": "started"},
        {**common, "event": "metric", "name": "train/loss", "value": 0.5, "step": 1},
        {**common, "event": "checkpoint", "path": "/c/step-1.json", "step": 1},
        {**common, "event": "sample", "path": "/s/step-1.png", "step": 1},
        {**common, "event": "completed", "step": 1, "final_checkpoint": None},
    ]
    written = path.read_text().splitlines()
    assert written[0] == json.dumps(json.loads(written[0]), sort_keys=True, separators=(",", ":"))
    assert [record.message for record in caplog.records] == [
        f"trainer.event {line}" for line in written
    ]


def test_a_run_ends_once(tmp_path: Path) -> None:
    reporter = LocalTrainingReporter(tmp_path / "events.jsonl", request_id="r")

    reporter.completed(step=3, final_checkpoint="final.json")
    reporter.failed(step=3, error="late")
    reporter.completed(step=4, final_checkpoint=None)
    reporter.metric(name="a", value=1.0, step=3)

    assert [one["event"] for one in lines(tmp_path / "events.jsonl")] == ["completed"]
    assert (reporter.completed_step, reporter.final_checkpoint) == (3, "final.json")
    assert (reporter.failed_step, reporter.failed_error) == (None, None)


def test_what_is_said_before_the_start_has_its_id(tmp_path: Path) -> None:
    reporter = LocalTrainingReporter(tmp_path / "events.jsonl", request_id="r")

    reporter.failed(step=0, error="startup:no trainer")

    told = lines(tmp_path / "events.jsonl")[0]
    assert (told["request_id"], told["event"], told["error"]) == (
        "r",
        "failed",
        "startup:no trainer",
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_no_word_for(tmp_path: Path, value: float) -> None:
    reporter = LocalTrainingReporter(tmp_path / "events.jsonl")

    reporter.metric(name="train/loss", value=value, step=1)

    told = lines(tmp_path / "events.jsonl")[0]
    assert told["value"] is None
    assert float(told["nonfinite"]) == value or math.isnan(value)


@pytest.mark.parametrize("tail", ["", '{"event": "met', "\n\n", "not json\n"])
def test_numbers_go_on_where_an_attempt_was_killed(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "events.jsonl"
    first = LocalTrainingReporter(path)
    first.started(request_id="r")
    first.metric(name="a", value=1.0, step=1)
    with path.open("a") as file:
        file.write(tail)

    second = LocalTrainingReporter(path)
    second.started(request_id="r")

    assert json.loads(path.read_text().splitlines()[-1])["seq"] == 3


def test_credentials_are_not_written(tmp_path: Path) -> None:
    reporter = LocalTrainingReporter(tmp_path / "events.jsonl")

    reporter.failed(step=1, error="GET refused: Authorization: Bearer abcdefghijklmnop123456")

    assert "abcdefghijklmnop123456" not in (tmp_path / "events.jsonl").read_text()


@pytest.mark.parametrize(("version", "event"), [(1, "failed"), (2, "canceled")])
def test_a_canceled_run_may_say_so(tmp_path: Path, version: int, event: str) -> None:
    policy = RuntimeCancelPolicy()
    reporter = LocalTrainingReporter(
        tmp_path / "events.jsonl", cancel_policy=policy, events_version=version
    )
    policy.cancel()
    assert reporter.is_canceled()

    reporter.failed(step=2, error="canceled")

    assert lines(tmp_path / "events.jsonl")[0]["event"] == event


def test_without_a_file_events_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gen_worker.trainer")

    LocalTrainingReporter().started(request_id="r")

    assert "trainer.event" in caplog.text


def test_an_observer_sees_what_is_written_once_it_is(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    reporter = LocalTrainingReporter(
        path, observer=lambda record: seen.append((record, lines(path)[-1]))
    )

    reporter.started(request_id="r")
    reporter.metric(name="train/loss", value=math.nan, step=1)
    reporter.failed(step=1, error="no")
    reporter.completed(step=1, final_checkpoint=None)

    assert [record["event"] for record, _ in seen] == ["started", "metric", "failed"]
    assert all(record == written for record, written in seen)
