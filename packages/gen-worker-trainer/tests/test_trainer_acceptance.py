"""The fifteen checks that a training runtime has to pass, one after the other, on whole runs.

Details are tested where they belong; check 8 bit for bit in test_torch_resume.py, check 12 for
every shape of file in data/test_parquet_feed.py, check 13 for every callback in uploads/.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.settings import CoreSettings
from gen_worker.trainer.mode import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Peer

PATIENCE_S = 60.0
TRAINER = """
import json, pathlib, random, time
from gen_worker.trainer import StepControlHints, StepResult

class Tuner:
    pulled = 0

    def setup(self, ctx): self.wishes = ctx.job.hyperparams
    def configure(self, ctx): return {"seen": [], "learning_rate": 0.001, "noise": []}
    def prepare_batch(self, raw_batch, state, ctx):
        Tuner.pulled += 1
        rows = getattr(raw_batch, "to_pydict", None)
        return rows() if rows else raw_batch
    def train_step(self, batch, state, ctx):
        step = len(state["seen"]) + 1
        if self.wishes.get("raises") == step:
            raise RuntimeError("the loss exploded")
        if self.wishes.get("slow"):
            print("STEP", step, flush=True)
            time.sleep(self.wishes["slow"])
        state["seen"].append(batch)
        state["noise"].append(random.random())
        skips = self.wishes.get("skips") == step
        return StepResult({"loss": 2.5}, control=StepControlHints(skip_cadence_emit=skips))
    def state_dict(self, state): return {"seen": state["seen"]}
    def load_state_dict(self, state, payload, ctx): state["seen"] = payload["seen"]
    def save_checkpoint(self, *, state, step, output_dir, final, ctx):
        (output_dir / "noise.json").write_text(json.dumps(state["noise"]))
        return {"primary_path": "noise.json"}
    def load_checkpoint(self, *, state, checkpoint_dir, payload, ctx):
        state["noise"] = json.loads(pathlib.Path(checkpoint_dir, "noise.json").read_text())
        pathlib.Path("loaded.txt").write_text(str(checkpoint_dir))
"""


class Job:
    """A folder with a trainer; a run of it is `WORKER_MODE=trainer` in this process."""

    def __init__(self, folder: Path, setenv: Callable[[str, str], None]) -> None:
        self.folder, self.out, self.setenv = folder, folder / "out", setenv
        (folder / "tuning.py").write_text(TRAINER)
        setenv("TRAINER_JOB_SPEC_PATH", str(folder / "job.json"))
        setenv("TRAINER_ARTIFACTS_DIR", str(self.out))

    def write(self, **fields: Any) -> None:
        spec = {
            "request_id": "run-7",
            "trainer": "tuning:Tuner",
            "max_steps": 5,
            "metric_every": 0,
            "mock_batches": [1, 2, 3, 4, 5, 6, 7],
            **fields,
        }
        (self.folder / "job.json").write_text(json.dumps(spec))

    def run(self, **fields: Any) -> int:
        self.write(**fields)
        return run(CoreSettings())

    def start(self, **fields: Any) -> subprocess.Popen[str]:
        self.write(**fields)
        return subprocess.Popen(
            [sys.executable, "-m", "gen_worker.entrypoint"],
            cwd=self.folder,
            env={**os.environ, "WORKER_MODE": "trainer"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def stop_at(self, step: int, number: int, **fields: Any) -> int:
        """Run it in a process of its own, and send that a signal at a step."""
        process = self.start(**fields)
        assert process.stdout is not None
        for line in process.stdout:
            if line == f"STEP {step}\n":
                break
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)
        return process.returncode

    def told(self, *names: str) -> list[tuple[Any, ...]]:
        """Return event, step, and error of the events of these names."""
        lines = (self.out / "metrics" / "events.jsonl").read_text().splitlines()
        keys = ("event", "step", "error")
        events = [json.loads(line) for line in lines]
        found = [tuple(one[key] for key in keys if key in one) for one in events]
        return [one for one in found if one[0] in names]

    def metrics(self, name: str) -> list[tuple[int, float]]:
        lines = (self.out / "metrics" / "events.jsonl").read_text().splitlines()
        events = [one for one in map(json.loads, lines) if one.get("name") == name]
        return [(one["step"], one["value"]) for one in events]

    def kept(self, name: str = "final") -> Any:
        return json.loads((self.out / "checkpoints" / f"{name}.json").read_text())["state"]["seen"]

    @property
    def checkpoints(self) -> set[str]:
        return {path.stem for path in (self.out / "checkpoints").glob("*.json")}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tuning", raising=False)
    return Job(tmp_path, monkeypatch.setenv)


def test_01_what_is_due_when(job: Job) -> None:
    assert job.run(metric_every=2, checkpoint_every=3, sample_every=4) == 0
    assert [step for step, _ in job.metrics("train/loss")] == [2, 4]
    assert job.told("checkpoint", "sample", "completed") == [
        ("checkpoint", 3),
        ("sample", 4),
        ("completed", 5),
    ]
    assert sys.modules["tuning"].Tuner.pulled == 5


def test_02_a_run_that_is_canceled_before_it_starts(job: Job) -> None:
    (job.folder / "stop").touch()
    assert job.run(cancel_file_path="stop") == 1
    assert job.told("failed", "completed", "checkpoint") == [("failed", 0, "canceled")]
    assert job.checkpoints == set()


def test_03_a_step_that_raises(job: Job) -> None:
    assert job.run(metric_every=1, hyperparams={"raises": 2}) == 1
    assert [step for step, _ in job.metrics("train/loss")] == [1]
    assert job.told("failed", "completed") == [("failed", 2, "the loss exploded")]


def test_04_a_step_may_go_unreported(job: Job) -> None:
    cadence = {"metric_every": 1, "checkpoint_every": 1, "sample_every": 1}
    assert job.run(max_steps=3, **cadence, hyperparams={"skips": 2}) == 0
    assert [step for step, _ in job.metrics("train/loss")] == [1, 3]
    assert job.told("checkpoint") == [("checkpoint", 1), ("checkpoint", 3)]


def test_05_a_run_that_goes_on(job: Job) -> None:
    assert job.run(max_steps=3, checkpoint_every=3) == 0
    assert job.run(checkpoint_every=2, resume_from_latest=True) == 0
    assert job.told("checkpoint", "completed")[-2:] == [("checkpoint", 4), ("completed", 5)]
    assert job.kept() == [1, 2, 3, 4, 5]


def test_06_names_of_metrics(job: Job) -> None:
    assert job.run(max_steps=1, metric_every=1) == 0
    assert job.metrics("train/loss") == [(1, 2.5)]
    assert job.metrics("train/lr") == [(1, 0.001)]


def test_07_a_damaged_checkpoint_is_passed_over(job: Job) -> None:
    job.run(max_steps=5, checkpoint_every=1, hyperparams={"raises": 4})
    root = job.out / "checkpoints"
    (root / "step-00000005.json").write_text("{no JSON")
    assert job.run(resume_from_latest=True) == 0
    assert job.metrics("trainer/resumed_from_step") == [(3, 3.0)]


def test_08_a_run_that_was_killed_has_the_weights_it_had_saved(job: Job) -> None:
    code = job.stop_at(3, signal.SIGKILL, checkpoint_every=2, hyperparams={"slow": 0.05})
    assert code == -signal.SIGKILL
    saved = json.loads((job.out / "checkpoints" / "step-00000002" / "noise.json").read_text())
    assert job.run(resume_from_latest=True) == 0
    assert (job.folder / "loaded.txt").read_text() == str(job.out / "checkpoints/step-00000002")
    final = json.loads((job.out / "checkpoints" / "final" / "noise.json").read_text())
    assert final[:2] == saved


def test_09_a_finished_run_can_be_longer(job: Job) -> None:
    assert job.run(max_steps=3) == 0
    assert job.run(max_steps=6, resume_from_latest=True) == 0
    assert job.told("completed") == [("completed", 3), ("completed", 6)]
    assert job.kept() == [1, 2, 3, 4, 5, 6]


def test_10_a_plugin_from_outside_leaves_the_spec_alone(job: Job, peer: Peer) -> None:
    job.setenv("TRAINER_PLUGIN", "tuning:Tuner")
    (job.folder / "stop").write_text("no")
    fields = {
        "trainer": "nobody:Knows",
        "capability_token": "s3cret",
        "cancel_file_path": "stop",
        "uploads": {"terminal_url": f"{peer.url}/terminal"},
    }
    assert job.run(**fields) == 0
    (job.folder / "stop").write_text("yes")
    assert job.run(**fields) == 1
    told = peer.at("/terminal")
    assert [one.told["status"] for one in told] == ["completed", "canceled"]
    assert {one.headers["authorization"] for one in told} == {"Bearer s3cret"}


def test_11_every_place_can_be_chosen(job: Job, tmp_path: Path) -> None:
    places = ("CHECKPOINTS_DIR", "SAMPLES_DIR", "METRICS_DIR")
    for name in places:
        job.setenv(f"TRAINER_{name}", str(tmp_path / name))
    job.setenv("TRAINER_EVENTS_PATH", str(tmp_path / "told.jsonl"))
    before = os.path.exists("/tmp/training")
    assert job.run(checkpoint_every=2, sample_every=2) == 0
    assert all((tmp_path / name).is_dir() for name in places[:2])
    assert (tmp_path / "told.jsonl").is_file()
    assert not job.out.exists()
    assert os.path.exists("/tmp/training") == before


def test_12_parquet_files(job: Job, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    paths = []
    for number in range(2):
        ids = range(number * 10, number * 10 + 10)
        table = pa.table({"id": ids, "text": ["x"] * 10, "more": [0.5] * 10})
        paths.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(table, paths[-1], row_group_size=4)
    dataset = {"parquet_paths": paths, "columns": ["id"], "batch_size": 7, "rebatch": True}
    assert job.run(max_steps=9, dataset=dataset) == 0
    batches = job.kept()
    assert [set(batch) for batch in batches] == [{"id"}] * 3
    assert [len(batch["id"]) for batch in batches] == [7, 7, 6]
    assert [one for batch in batches for one in batch["id"]] == list(range(20))


def test_13_a_callback_server_that_answers_503_twice(job: Job, peer: Peer) -> None:
    peer.plans["/terminal"].extend([503, 503])
    assert job.run(uploads={"terminal_url": f"{peer.url}/terminal"}) == 0
    assert [one.told["status"] for one in peer.at("/terminal")] == ["completed"] * 3


def test_14_a_run_that_is_told_to_end_keeps_what_it_has_learned(job: Job, peer: Peer) -> None:
    code = job.stop_at(
        3,
        signal.SIGTERM,
        max_steps=7,
        hyperparams={"slow": 0.2},
        uploads={"terminal_url": f"{peer.url}/terminal"},
    )
    assert code == 143
    (name,) = job.checkpoints
    (ended,) = peer.wait_for("/terminal", 1)
    assert (ended.told["status"], ended.told["step"]) == ("canceled", len(job.kept(name)))
    assert job.told("failed") == [("failed", len(job.kept(name)), "canceled")]


def test_15_neither_torch_nor_pyarrow_is_needed(job: Job) -> None:
    hides = "import sys\nfor name in ('torch', 'pyarrow', 'numpy'): sys.modules[name] = None\n"
    (job.folder / "sitecustomize.py").write_text(hides)
    job.setenv("PYTHONPATH", str(job.folder))
    process = job.start(checkpoint_every=2)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert job.kept() == [1, 2, 3, 4, 5]
