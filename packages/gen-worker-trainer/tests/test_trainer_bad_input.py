"""What is wrong with a job, its surroundings or its trainer is told, and costs nothing learned."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.settings import CoreSettings
from gen_worker.trainer.checkpoints import CheckpointStore
from gen_worker.trainer.mode import run

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL_LOAD = "model-load:failed to initialize trainer model/backend"
PATIENCE_S = 60.0


class Job:
    """A folder with a trainer; a run of it is `WORKER_MODE=trainer` in this process."""

    def __init__(self, folder: Path, setenv: Callable[[str, str], None]) -> None:
        self.folder, self.out = folder, folder / "out"
        self.setenv = setenv
        shutil.copyfile(Path(__file__).with_name("bad_trainer.py"), folder / "bad_trainer.py")
        setenv("TRAINER_JOB_SPEC_PATH", str(folder / "job.json"))
        setenv("TRAINER_ARTIFACTS_DIR", str(self.out))

    def write(self, **fields: Any) -> None:
        spec = {
            "request_id": "run-7",
            "trainer": "bad_trainer:Failing",
            "max_steps": 4,
            "metric_every": 1,
            "checkpoint_every": 1,
            "sample_every": 2,
            "sample_prompts": ["a"],
            "mock_batches": list(range(9)),
            **fields,
        }
        (self.folder / "job.json").write_text(json.dumps(spec))

    def run(self, **fields: Any) -> int:
        self.write(**fields)
        return run(CoreSettings())

    def process(self, *before: str, **fields: Any) -> subprocess.CompletedProcess[str]:
        """Run it in a process of its own."""
        self.write(**fields)
        return subprocess.run(
            [*before, sys.executable, "-m", "gen_worker.entrypoint"],
            cwd=self.folder,
            env={**os.environ, "WORKER_MODE": "trainer"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def events(self) -> list[dict[str, Any]]:
        lines = (self.out / "metrics" / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def failed(self) -> tuple[str, int]:
        """Return error and step of the one event that ends the run."""
        events = self.events()
        ends = [one for one in events if one["event"] in ("failed", "completed", "canceled")]
        assert ends == [events[-1]]
        assert events[-1]["event"] == "failed"
        return events[-1]["error"], events[-1]["step"]

    def kept(self) -> int:
        """Return the step of the newest whole checkpoint; nothing half-done is beside it."""
        root = self.out / "checkpoints"
        if not root.exists():
            return 0
        partial = [path.name for path in root.iterdir() if path.name.startswith(".")]
        assert set(partial) <= {".lock", ".uploads"}
        for path in root.glob("*.json"):
            assert json.loads(path.read_text())["step"]
        names = {path.stem for path in root.glob("*.json")}
        assert {path.name for path in root.iterdir() if path.is_dir()} - {".uploads"} <= names
        assert not [path for path in self.out.rglob("*.tmp")]
        with CheckpointStore(str(root), warn=pytest.fail) as store:
            newest = store.newest()
        return 0 if newest is None else newest.checkpoint.step


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bad_trainer", raising=False)
    return Job(tmp_path, monkeypatch.setenv)


# -- the job spec ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"max_steps": "many"}, "max_steps"),
        ({"max_steps": -1}, "max_steps"),
        ({"max_steps": 1.5}, "max_steps"),
        ({"metric_every": [1]}, "metric_every"),
        ({"checkpoint_every": -3}, "checkpoint_every"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": 7}, "request_id"),
        ({"hyperparams": [1]}, "hyperparams"),
        ({"dataset": "rows.parquet"}, "dataset"),
        ({"dataset": {"parquet_paths": "rows.parquet"}}, "parquet_paths"),
        ({"dataset": {"batch_size": 0}}, "batch_size"),
        ({"dataset": {"columns": 3}}, "columns"),
        ({"mock_batches": 3}, "mock_batches"),
        ({"inputs": {"dataset_parquet_refs": "one"}}, "dataset_parquet_refs"),
        ({"uploads": {"terminal_url": 3}}, "terminal_url"),
        ({"sample_prompts": [{"prompt": 3, "seed": "x"}]}, "sample_prompts"),
        ({"max_runtime_seconds": -1}, "max_runtime_seconds"),
        ({"cancel_grace_seconds": -1}, "cancel_grace_seconds"),
        ({"trainer_api_version": "v9"}, "trainer_api_version"),
        ({"events_version": 3}, "events_version"),
        ({"destination": {"tags": 3}}, "tags"),
        ({"orchestrated": True}, "token"),
        ({"trainer": ""}, "trainer"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_job_spec_with_a_wrong_value(job: Job, fields: dict[str, Any], names: str) -> None:
    assert job.run(**fields) == 1
    error, step = job.failed()
    assert error.startswith("startup:")
    assert names in error
    assert (step, job.kept()) == (0, 0)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"job"', '{"request_id": "r"'])
def test_a_job_spec_that_is_none(job: Job, text: str) -> None:
    (job.folder / "job.json").write_text(text)
    assert run(CoreSettings()) == 1
    error, step = job.failed()
    assert error.startswith("startup:")
    assert step == 0


# -- the trainer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trainer",
    [
        "no_such_module:Tuner",
        "bad_trainer:Nobody",
        "bad_trainer",
        "bad_trainer:",
        ":Failing",
        "bad_trainer:Missing",
        "bad_trainer:Needy",
        "bad_trainer:function",
        "json:dumps",
    ],
)
def test_a_plugin_that_is_none(job: Job, trainer: str) -> None:
    assert job.run(trainer=trainer) == 1
    assert job.failed() == (MODEL_LOAD, 0)
    assert job.kept() == 0


@pytest.mark.parametrize(
    ("trainer", "says", "step"),
    [
        ("bad_trainer:Uninformative", "StepResult-like", 1),
        ("bad_trainer:Stateless", "state_dict returned list", 1),
    ],
)
def test_a_hook_that_returns_the_wrong_thing(job: Job, trainer: str, says: str, step: int) -> None:
    assert job.run(trainer=trainer) == 1
    error, told = job.failed()
    assert says in error
    assert (told, job.kept()) == (step, 0)


HOOKS: list[tuple[str, int | str, str, int, int]] = [
    # hook, which of its calls, category, step of the event, newest checkpoint that stays
    ("setup", 1, "model-load", 0, 0),
    ("configure", 1, "model-load", 0, 0),
    ("prepare_batch", 1, "input", 1, 0),
    ("prepare_batch", 3, "input", 3, 2),
    ("prepare_batch", 4, "input", 4, 3),
    ("train_step", 1, "train-step", 1, 0),
    ("train_step", 3, "train-step", 3, 2),
    ("train_step", 4, "train-step", 4, 3),
    ("state_dict", 1, "train-step", 1, 0),
    ("state_dict", 3, "train-step", 3, 2),
    ("state_dict", "final", "train-step", 4, 4),
    ("save_checkpoint", 1, "train-step", 1, 0),
    ("save_checkpoint", 3, "train-step", 3, 2),
    ("save_checkpoint", "final", "train-step", 4, 4),
    ("generate_sample", 1, "train-step", 2, 2),
    ("generate_sample", 2, "train-step", 4, 4),
]


@pytest.mark.parametrize("kind", ["RuntimeError", "OSError", "SystemExit"])
@pytest.mark.parametrize(("hook", "nth", "category", "step", "kept"), HOOKS)
def test_a_hook_that_raises(
    job: Job, hook: str, nth: int | str, category: str, step: int, kept: int, kind: str
) -> None:
    assert job.run(hyperparams={"fails": hook, "nth": nth, "kind": kind}) == 1
    error, told = job.failed()
    text = f"{hook} is broken"
    expected = {"train-step": text, "input": f"input:{text}", "model-load": MODEL_LOAD}
    assert error == expected[category]
    assert (told, job.kept()) == (step, kept)
    assert not (job.out / "checkpoints" / "final.json").exists()

    assert job.run(resume_from_latest=True) == 0, "what is left is good to go on from"
    resumed = [
        one["step"] for one in job.events() if one.get("name") == "trainer/resumed_from_step"
    ]
    assert resumed == ([kept] if kept else [])
    final = json.loads((job.out / "checkpoints" / "final" / "seen.json").read_text())
    assert final == [0, 1, 2, 3]


@pytest.mark.parametrize("hook", ["setup", "configure", "load_state_dict", "load_checkpoint"])
def test_a_hook_that_raises_when_a_run_goes_on(job: Job, hook: str) -> None:
    assert job.run(max_steps=2) == 0
    assert job.run(resume_from_latest=True, hyperparams={"fails": hook}) == 1
    error = job.events()[-1]
    assert (error["event"], error["error"], error["step"]) == ("failed", MODEL_LOAD, 2)
    assert job.kept() == 2


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf"])
def test_a_loss_that_is_no_number(job: Job, loss: str) -> None:
    assert job.run(hyperparams={"loss": loss}) == 1
    error, step = job.failed()
    assert "loss" in error
    assert (step, job.kept()) == (1, 0)
    for line in (job.out / "metrics" / "events.jsonl").read_text().splitlines():
        assert "NaN" not in line
        assert "Infinity" not in line


# -- what is around it -----------------------------------------------------------------------------


def test_two_jobs_on_one_directory(job: Job) -> None:
    assert job.run(max_steps=2) == 0
    with CheckpointStore(str(job.out / "checkpoints")):
        done = job.process(resume_from_latest=True)
    assert done.returncode == 1
    last = job.events()[-1]
    assert last["event"] == "failed"
    assert f"process {os.getpid()} writes its checkpoints" in last["error"]
    assert last["error"].startswith("startup:")
    assert job.kept() == 2


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of Unix")
@pytest.mark.parametrize("step", [1, 3])
def test_a_full_disk(job: Job, step: int) -> None:
    """No file may grow beyond so much, as if the disk had no more: the write itself fails."""
    limit = job.folder / "limited.py"
    limit.write_text(
        "import resource, signal, sys, runpy\n"
        "import bad_trainer\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "own = bad_trainer.Failing.save_checkpoint\n"
        "def save(self, *, step, **more):\n"
        f"    self.wishes = {{**self.wishes, 'bytes': 300_000 if step >= {step} else 10}}\n"
        "    return own(self, step=step, **more)\n"
        "bad_trainer.Failing.save_checkpoint = save\n"
        "bad_trainer.Failing._call = lambda self, *a, **k: "
        "setattr(self, 'wishes', getattr(self, 'wishes', {}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "runpy.run_module('gen_worker.entrypoint', run_name='__main__')\n"
    )
    job.write()
    done = subprocess.run(
        [sys.executable, str(limit)],
        cwd=job.folder,
        env={**os.environ, "WORKER_MODE": "trainer"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1, done.stderr
    error, told = job.failed()
    assert "File too large" in error
    assert (told, job.kept()) == (step, step - 1)
    assert job.run(resume_from_latest=True) == 0


def test_a_disk_without_room_is_noticed_before(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(job.folder)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10))
    assert job.run() == 1
    error, step = job.failed()
    assert "the disk of" in error
    assert (step, job.kept()) == (2, 1)


def test_a_clock_that_jumps(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock says when, and nothing else: no limit, no order, no wait depends on it."""
    import time

    jumps = iter([0, -86_400, 86_400, -3 * 86_400, 10 * 86_400] * 100)
    own, own_ns = time.time, time.time_ns
    monkeypatch.setattr("time.time", lambda: own() + next(jumps))
    monkeypatch.setattr("time.time_ns", lambda: own_ns() + next(jumps) * 1_000_000_000)
    assert job.run(max_runtime_seconds=3600) == 0
    assert job.run(max_runtime_seconds=3600, max_steps=6, resume_from_latest=True) == 0
    events = job.events()
    assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
    stamps = [one["timestamp_ms"] for one in events]
    assert stamps != sorted(stamps), "it did jump"
    assert job.kept() == 6


def test_places_that_cannot_be_written(job: Job) -> None:
    job.out.mkdir()
    (job.out / "checkpoints").write_text("a file")
    assert job.run() == 1
    (job.out / "checkpoints").unlink()
    (job.out / "samples").write_text("a file")
    assert job.run() == 1


def test_an_events_file_that_cannot_be_written_fails_the_run(job: Job) -> None:
    job.setenv("TRAINER_EVENTS_PATH", str(job.folder / "job.json" / "events.jsonl"))
    assert job.run() == 1
    assert job.kept() == 0
