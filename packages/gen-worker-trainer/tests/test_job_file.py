"""Job specs are read as they are documented; what no run could use is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer.errors import StartupContractError
from gen_worker.trainer.job_file import (
    DatasetSpec,
    Destination,
    InputRefs,
    SampleRequest,
    UploadScope,
    UploadUrls,
    load_job_file,
    parse_job,
)

if TYPE_CHECKING:
    from pathlib import Path

_DOCUMENTED = """
{"trainer_api_version":"v1","request_id":"run-7","trainer":"pkg.train:Tuner",
 "max_steps":200,"metric_every":5,"checkpoint_every":50,"sample_every":100,
 "owner":"acme","sample_seed":3,"sample_prompts":["a red cube",
 {"mode":"instruct-edit","instruction":"make it blue","source_image":"in.png"}],
 "hyperparams":{"learning_rate":2e-5},
 "dataset":{"parquet_paths":["/d/a.parquet"],"batch_size":16,"columns":["text","label"]},
 "execution_hints":{"kind":"training","destination_repo":"acme/clf","job_id":"j1"},
 "uploads":{"terminal_url":"https://ctl.example/t"}}
"""


def test_a_documented_job(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(_DOCUMENTED)

    job = load_job_file(path)

    assert (job.request_id, job.trainer, job.max_steps) == ("run-7", "pkg.train:Tuner", 200)
    assert (job.metric_every, job.checkpoint_every, job.sample_every) == (5, 50, 100)
    assert job.dataset == DatasetSpec(
        parquet_paths=("/d/a.parquet",), batch_size=16, columns=("text", "label")
    )
    assert job.scope == UploadScope(kind="training", destination_repo="acme/clf", job_id="j1")
    assert job.uploads == UploadUrls(terminal_url="https://ctl.example/t")
    assert job.samples == (
        SampleRequest("sample-00", "t2i", "a red cube", seed=3),
        SampleRequest("sample-01", "instruct-edit", "", "", "make it blue", "in.png", seed=3),
    )
    spec = job.spec
    assert (spec.request_id, spec.max_steps, spec.owner) == ("run-7", 200, "acme")
    assert spec.hyperparams == {"learning_rate": 2e-5}


def test_what_a_job_does_not_say() -> None:
    job = parse_job({"request_id": "r", "dataset": None, "seed": None, "inputs": {}})

    assert (job.max_steps, job.metric_every, job.checkpoint_every) == (0, 10, 0)
    assert job.dataset == DatasetSpec()
    assert (job.dataset.batch_size, job.dataset.readahead, job.dataset.epochs) == (32, 2, 1)
    assert (job.dataset.shuffle_buffer_rows, job.dataset.resume) == (10_000, "skip")
    assert job.inputs == InputRefs()
    assert job.scope == UploadScope()
    assert (job.cancel_grace_seconds, job.upload_drain_seconds) == (30, 600)
    assert (job.keep_last_checkpoints, job.events_version) == (0, 1)
    assert job.destination == Destination()
    assert not job.uploads
    assert job.samples == ()


def test_counts_may_be_text_and_unknown_keys_are_left_out() -> None:
    job = parse_job(
        {"request_id": "r", "max_steps": "5", "later": 1, "dataset": {"batch_size": "4", "x": 1}}
    )

    assert (job.max_steps, job.dataset.batch_size) == (5, 4)


@pytest.mark.parametrize(
    ("given", "scope"),
    [
        (
            {"execution_hints": {"repo": "a/b"}, "destination_repo": "c/d"},
            UploadScope(destination_repo="a/b"),
        ),
        (
            {"output_repo": "c/d", "training_job_id": "j", "execution_kind": "Conversion"},
            UploadScope(kind="conversion", destination_repo="c/d", job_id="j"),
        ),
        (
            {"execution_hints": {"kind": " ", "job_id": 7}, "kind": "TRAINING"},
            UploadScope(kind="training", job_id="7"),
        ),
    ],
)
def test_whose_weights_they_are(given: dict[str, Any], scope: UploadScope) -> None:
    assert parse_job({"request_id": "r", **given}).scope == scope


@pytest.mark.parametrize("suffix", ["ref", "url"])
def test_inputs_have_two_names(suffix: str) -> None:
    job = parse_job(
        {
            "request_id": "r",
            "inputs": {
                f"base_model_{suffix}": "acme/base",
                f"dataset_parquet_{suffix}s": ["a.parquet"],
                f"resume_checkpoint_{suffix}": "x",
            },
        }
    )

    assert job.inputs == InputRefs(
        base_model_ref="acme/base", dataset_parquet_refs=("a.parquet",), resume_checkpoint_ref="x"
    )


def test_samples_of_other_types_are_left_out() -> None:
    job = parse_job({"request_id": "r", "sample_prompts": [3, "a", None, {"seed": "9"}]})

    assert [(one.name, one.prompt, one.seed) for one in job.samples] == [
        ("sample-01", "a", None),
        ("sample-03", "", 9),
    ]


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({}, "startup.invalid_job_spec", "request_id"),
        ({"request_id": 3}, "startup.invalid_job_spec", "request_id"),
        ({"max_steps": "many"}, "startup.invalid_job_spec", "max_steps"),
        ({"dataset": {"batch_size": 0}}, "startup.invalid_job_spec", "batch_size must be at least"),
        ({"dataset": {"shard_index": 2}}, "startup.invalid_job_spec", "shard_index must be from"),
        ({"dataset": ["a"]}, "startup.invalid_job_spec", "dataset"),
        ({"dataset": {"resume": "maybe"}}, "startup.invalid_job_spec", "resume"),
        ({"hyperparams": []}, "startup.invalid_job_spec", "hyperparams"),
        ({"events_version": 3}, "startup.invalid_job_spec", "events_version"),
        ({"trainer_api_version": "v2"}, "startup.unsupported_api_version", "'v2'"),
        ({"max_runtime_seconds": -1}, "startup.invalid_timeout", "max_runtime_seconds"),
        ({"keep_last_checkpoints": -1}, "startup.invalid_job_spec", "keep_last_checkpoints"),
    ],
)
def test_what_no_run_could_use_is_refused(fields: dict[str, Any], code: str, message: str) -> None:
    job = {"request_id": "r", **fields} if fields else {}
    with pytest.raises(StartupContractError, match=message) as raised:
        parse_job(job)

    assert raised.value.code == code
    assert str(raised.value).startswith(f"{code}: ")


def test_every_mistake_is_named() -> None:
    with pytest.raises(StartupContractError) as raised:
        parse_job({"max_steps": "many", "hyperparams": [], "dataset": {"batch_size": 0}})

    for said in ("request_id is missing", "max_steps: ", "hyperparams: ", "dataset: batch_size"):
        assert said in str(raised.value)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff"])
def test_a_file_that_is_no_job_spec(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "job.json"
    path.write_bytes(body)

    with pytest.raises(StartupContractError, match=r"job\.json"):
        load_job_file(path)


def test_there_is_no_job_spec(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="set TRAINER_JOB_SPEC_PATH"):
        load_job_file(tmp_path / "job.json")


def test_a_token_is_not_shown() -> None:
    job = parse_job(json.loads('{"request_id": "r", "capability_token": "s3cret"}'))

    assert "s3cret" not in repr(job)
