"""Each value of a job comes from the operator, else from the job spec, else from its default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.settings import load
from gen_worker.trainer.config import RunConfig, places_of, resolve
from gen_worker.trainer.devices import device_of, dtype_of
from gen_worker.trainer.errors import StartupContractError
from gen_worker.trainer.job_file import parse_job
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from pathlib import Path

_JOB = {
    "request_id": "r",
    "trainer": "job:Trainer",
    "capability_token": "job-token",
    "max_runtime_seconds": 60,
    "cancel_file_path": "/job/cancel",
    "uploads": {"metrics_url": "http://job/m", "terminal_url": "http://job/t"},
}
_ENVIRON = {
    "TRAINER_PLUGIN": "operator:Trainer",
    "TRAINER_CAPABILITY_TOKEN": "operator-token",
    "TRAINER_MAX_RUNTIME_SECONDS": "0",
    "TRAINER_CANCEL_FILE": "/operator/cancel",
    "TRAINER_UPLOAD_METRICS_URL": "http://operator/m",
    "TRAINER_UPLOAD_CHECKPOINT_URL": "http://operator/c",
    "TRAINER_UPLOAD_SAMPLE_URL": "http://operator/s",
}


def resolved(environ: dict[str, str], job: dict[str, Any]) -> RunConfig:
    settings = load(TrainerSettings, environ=environ, files=())
    return resolve(settings, parse_job(job), places_of(settings))


def values(config: RunConfig) -> tuple[object, ...]:
    urls = config.uploads
    uploads = (urls.metrics_url, urls.checkpoint_url, urls.sample_url, urls.terminal_url)
    limit = config.max_runtime_seconds
    return (config.trainer, config.token, limit, config.cancel_file, *uploads)


def test_the_job_alone() -> None:
    assert values(resolved({}, _JOB)) == (
        "job:Trainer",
        "job-token",
        60,
        "/job/cancel",
        "http://job/m",
        "",
        "",
        "http://job/t",
    )


@pytest.mark.claims(
    "TRAINER_PLUGIN",
    "TRAINER_CAPABILITY_TOKEN",
    "TRAINER_MAX_RUNTIME_SECONDS",
    "TRAINER_CANCEL_FILE",
    "TRAINER_UPLOAD_METRICS_URL",
    "TRAINER_UPLOAD_CHECKPOINT_URL",
    "TRAINER_UPLOAD_SAMPLE_URL",
    "TRAINER_UPLOAD_TERMINAL_URL",
)
def test_the_operator_is_stronger_value_by_value() -> None:
    environ = {"TRAINER_UPLOAD_TERMINAL_URL": "http://operator/t"}
    assert resolved(environ, _JOB).uploads.terminal_url == "http://operator/t"
    assert values(resolved(_ENVIRON, _JOB)) == (
        "operator:Trainer",
        "operator-token",
        0,
        "/operator/cancel",
        "http://operator/m",
        "http://operator/c",
        "http://operator/s",
        "http://job/t",
    )


@pytest.mark.parametrize("name", sorted(_ENVIRON))
def test_each_variable_is_independent_of_the_others(name: str) -> None:
    alone = values(resolved({name: _ENVIRON[name]}, _JOB))

    differing = sum(
        one != other for one, other in zip(alone, values(resolved({}, _JOB)), strict=True)
    )
    assert differing == 1


def test_where_a_job_writes(tmp_path: Path) -> None:
    places = places_of(load(TrainerSettings, environ={}, files=()))
    assert (places.checkpoints, places.samples) == (
        "/tmp/training/checkpoints",
        "/tmp/training/samples",
    )
    assert places.events == "/tmp/training/metrics/events.jsonl"

    environ = {"TRAINER_ARTIFACTS_DIR": str(tmp_path), "TRAINER_METRICS_DIR": str(tmp_path / "m")}
    places = places_of(load(TrainerSettings, environ=environ, files=()))
    assert places.checkpoints == str(tmp_path / "checkpoints")
    assert places.events == str(tmp_path / "m" / "events.jsonl")
    assert places.inputs == str(tmp_path / "m" / "materialized-inputs")


@pytest.mark.parametrize("name", ["CHECKPOINTS_DIR", "SAMPLES_DIR", "METRICS_DIR", "EVENTS_PATH"])
def test_places_that_cannot_be(tmp_path: Path, name: str) -> None:
    place = tmp_path / "place"
    if name == "EVENTS_PATH":
        place.mkdir()
    else:
        place.touch()
    environ = {"TRAINER_ARTIFACTS_DIR": str(tmp_path), f"TRAINER_{name}": str(place)}
    with pytest.raises(StartupContractError, match="is to be") as raised:
        places_of(load(TrainerSettings, environ=environ, files=()))
    assert raised.value.code == "startup.invalid_artifact_paths"


def test_two_places_that_are_one(tmp_path: Path) -> None:
    environ = {
        "TRAINER_CHECKPOINTS_DIR": str(tmp_path),
        "TRAINER_SAMPLES_DIR": f"{tmp_path}/../{tmp_path.name}",
    }
    with pytest.raises(StartupContractError, match="both"):
        places_of(load(TrainerSettings, environ=environ, files=()))


@pytest.mark.parametrize(
    ("environ", "job", "code"),
    [
        ({}, {"request_id": "r"}, "startup.missing_trainer_import"),
        (
            {"TRAINER_ORCHESTRATED": "1"},
            {"request_id": "r", "trainer": "a:B"},
            "startup.missing_capability_token",
        ),
        (
            {},
            {"request_id": "r", "trainer": "a:B", "orchestrated": True},
            "startup.missing_capability_token",
        ),
        (
            {"TRAINER_MAX_RUNTIME_SECONDS": "-1"},
            {"request_id": "r", "trainer": "a:B"},
            "startup.invalid_timeout",
        ),
    ],
)
def test_what_no_run_could_use(environ: dict[str, str], job: dict[str, Any], code: str) -> None:
    with pytest.raises(StartupContractError) as raised:
        resolved(environ, job)
    assert raised.value.code == code


@pytest.mark.claims("TRAINER_ORCHESTRATED")
def test_an_operator_may_lift_the_need_of_a_token() -> None:
    job = {"request_id": "r", "trainer": "a:B", "orchestrated": True}

    assert resolved({"TRAINER_ORCHESTRATED": "no"}, job).token == ""


def test_a_token_is_not_shown() -> None:
    assert "job-token" not in repr(resolved({}, _JOB))


def test_what_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_worker.trainer.devices._cuda_works", lambda: False)
    assert device_of({}) == device_of({"device": "auto"}) == "cpu"
    assert device_of({"device": "mps"}) == "mps"
    monkeypatch.setattr("gen_worker.trainer.devices._cuda_works", lambda: True)
    assert device_of({}) == "cuda:0"
    assert device_of({"device": None}, local_rank=3) == "cuda:3"
    assert (dtype_of({}), dtype_of({"dtype": "fp16"})) == ("bf16", "fp16")
