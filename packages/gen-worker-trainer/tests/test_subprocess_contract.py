"""A launcher hands a contract over; the child it starts is told the same, and is followed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.trainer.contracts import (
    TrainerSubprocessContractV1,
    read_subprocess_contract,
    run_subprocess,
    write_subprocess_contract,
)

if TYPE_CHECKING:
    from pathlib import Path

texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
contracts = st.builds(
    TrainerSubprocessContractV1,
    trainer_plugin=texts,
    job_spec_path=texts,
    arrow_ipc_path=st.text(),
    checkpoints_dir=texts,
    samples_dir=texts,
    events_path=st.none() | texts,
    extra_env=st.dictionaries(texts, texts),
)

TRAINER = """
import os, time

class Tuner:
    def setup(self, ctx): pass
    def configure(self, ctx): return {"steps": 0}
    def prepare_batch(self, raw_batch, state, ctx): return raw_batch
    def state_dict(self, state): return dict(state)
    def load_state_dict(self, state, payload, ctx): state.update(payload)

    def train_step(self, batch, state, ctx):
        state["steps"] += 1
        time.sleep(float(os.environ.get("SLOW", "0")))
        return type("Result", (), {"metrics": {"loss": 1.0}})()
"""


@given(contracts)
def test_a_contract_is_what_was_written(contract: TrainerSubprocessContractV1) -> None:
    assert TrainerSubprocessContractV1.from_json(contract.to_json()) == contract


def test_a_contract_in_a_file(tmp_path: Path) -> None:
    contract = TrainerSubprocessContractV1(trainer_plugin="m:T", job_spec_path="job.json")
    path = tmp_path / "made" / "contract.json"

    write_subprocess_contract(path, contract)

    assert path.read_text() == json.dumps(
        {
            "contract_version": "v1",
            "trainer_plugin": "m:T",
            "job_spec_path": "job.json",
            "arrow_ipc_path": "",
            "checkpoints_dir": "/tmp/training/checkpoints",
            "samples_dir": "/tmp/training/samples",
            "events_path": None,
            "extra_env": {},
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    assert read_subprocess_contract(path) == contract


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "is not one JSON object"),
        ("{", "is not JSON"),
        ("{}", "trainer_plugin"),
        ('{"trainer_plugin": "m:T", "job_spec_path": ""}', "job_spec_path must not be empty"),
        ('{"trainer_plugin": 1, "job_spec_path": "j"}', "trainer_plugin"),
        (
            '{"trainer_plugin": "m:T", "job_spec_path": "j", "contract_version": "v2"}',
            "known is 'v1'",
        ),
        ('{"trainer_plugin": "m:T", "job_spec_path": "j", "extra_env": {"A": 1}}', "extra_env"),
    ],
)
def test_what_is_no_contract(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "contract.json").write_text(text)

    with pytest.raises(ValueError, match=told.replace("$", ".")):
        read_subprocess_contract(tmp_path / "contract.json")


def test_what_a_child_is_told() -> None:
    contract = TrainerSubprocessContractV1(
        trainer_plugin="m:T",
        job_spec_path="job.json",
        arrow_ipc_path="rows.arrows",
        events_path="events.jsonl",
        extra_env={"TRAINER_SAMPLES_DIR": "elsewhere", "MORE": "1"},
    )

    assert contract.to_environment() == {
        "WORKER_MODE": "trainer",
        "TRAINER_PLUGIN": "m:T",
        "TRAINER_JOB_SPEC_PATH": "job.json",
        "TRAINER_CHECKPOINTS_DIR": "/tmp/training/checkpoints",
        "TRAINER_SAMPLES_DIR": "elsewhere",
        "TRAINER_EVENTS_PATH": "events.jsonl",
        "TRAINER_ARROW_IPC_PATH": "rows.arrows",
        "MORE": "1",
    }


class Launcher:
    """A folder with a trainer, and children that run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[dict[str, Any]] = []
        self.arrived = threading.Condition()
        (folder / "tuning.py").write_text(TRAINER)
        names = {name: value for name, value in os.environ.items() if "TRAINER" not in name}
        self.environ = {**names, "TRAINER_ARTIFACTS_DIR": str(folder / "out")}

    def take(self, event: dict[str, Any]) -> None:
        with self.arrived:
            self.events.append(event)
            self.arrived.notify_all()

    def run(self, contract: dict[str, Any] | None = None, **job: Any) -> int:
        fields = {"request_id": "r", "max_steps": 3, "metric_every": 1, **job}
        (self.folder / "job.json").write_text(json.dumps(fields))
        whole = TrainerSubprocessContractV1(
            trainer_plugin="tuning:Tuner",
            job_spec_path="job.json",
            checkpoints_dir=str(self.folder / "checkpoints"),
            samples_dir=str(self.folder / "samples"),
            **(contract or {}),
        )
        return run_subprocess(whole, observer=self.take, cwd=self.folder, environ=self.environ)


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    return Launcher(tmp_path)


@pytest.mark.parametrize("events_path", [None, "log/events.jsonl"])
def test_a_child_is_followed_to_its_end(launcher: Launcher, events_path: str | None) -> None:
    code = launcher.run({"events_path": events_path}, mock_batches=[1, 2, 3])

    assert code == 0
    told = [one for one in launcher.events if not str(one.get("name", "")).startswith("perf/")]
    named = [(one["event"], one.get("step")) for one in told]
    assert named == [("started", None), *(("metric", n) for n in (1, 2, 3)), ("completed", 3)]
    path = events_path or "out/metrics/events.jsonl"
    written = (launcher.folder / path).read_text().splitlines()
    assert [json.loads(line) for line in written] == launcher.events
    assert (launcher.folder / "checkpoints" / "final.json").is_file()


def test_a_child_that_fails(launcher: Launcher) -> None:
    assert launcher.run(max_steps="many") == 1
    assert [one["event"] for one in launcher.events] == ["failed"]


def test_a_signal_reaches_the_child_once(launcher: Launcher) -> None:
    def interrupt() -> None:
        with launcher.arrived:
            assert launcher.arrived.wait_for(lambda: len(launcher.events) > 3, 60)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    code = launcher.run(
        {"extra_env": {"SLOW": "0.01"}},
        max_steps=100_000,
        mock_batches=[1],
        dataset={"epochs": 0},
    )
    thread.join()

    assert code == 130
    assert [one["event"] for one in launcher.events[-2:]] == ["checkpoint", "failed"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_child_that_is_killed(launcher: Launcher) -> None:
    contract = TrainerSubprocessContractV1(trainer_plugin="m:T", job_spec_path="job.json")
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]

    assert run_subprocess(contract, command=command, environ=launcher.environ) == 137


@pytest.mark.claims("TRAINER_ARROW_IPC_PATH")
def test_batches_of_an_arrow_stream_take_the_place_of_the_dataset(launcher: Launcher) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"x": list(range(40))})
    path = launcher.folder / "rows.arrows"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        for batch in table.to_batches(max_chunksize=10):
            stream.write_batch(batch)

    code = launcher.run({"arrow_ipc_path": str(path)}, mock_batches=[1], max_steps=100)

    assert code == 0
    assert launcher.events[-1]["step"] == 4
