"""A trainer process as a launcher sees it: job spec in; events, files and exit code out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S = 60.0

_TRAINER = """
import json, os, pathlib, sys, time

class Tuner:
    def setup(self, ctx):
        self.ctx = ctx
        if ctx.job.hyperparams.get("fails") == "setup":
            raise OSError("no weights")

    def configure(self, ctx):
        return {"weight": 0.0, "seen": [], "learning_rate": 0.5, "generate_sample": self.sample}

    def prepare_batch(self, raw_batch, state, ctx):
        return float(raw_batch["x"])

    def train_step(self, batch, state, ctx):
        step = len(state["seen"]) + 1
        if ctx.job.hyperparams.get("fails") == step:
            raise RuntimeError("the loss exploded")
        if ctx.job.hyperparams.get("slow"):
            print("STEP", step, flush=True)
            time.sleep(float(ctx.job.hyperparams["slow"]))
        state["seen"].append(batch)
        state["weight"] += batch * state["learning_rate"]
        return type("Result", (), {"metrics": {"loss": 1.0 / step}})()

    def state_dict(self, state):
        return {"seen": state["seen"]}

    def load_state_dict(self, state, payload, ctx):
        state["seen"] = list(payload["seen"])

    def save_checkpoint(self, *, state, step, output_dir, final, ctx):
        (output_dir / "weights.json").write_text(json.dumps(state["weight"]))
        return {"primary_path": "weights.json", "told_step": step}

    def load_checkpoint(self, *, state, checkpoint_dir, payload, ctx):
        path = pathlib.Path(checkpoint_dir, "weights.json")
        state["weight"] = json.loads(path.read_text())
        pathlib.Path("loaded.txt").write_text(str(checkpoint_dir))

    def sample(self, *, prompt, seed):
        return {"made": prompt.upper(), "with": seed}
"""


class Job:
    """A folder with a trainer, and runs of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        (folder / "tuning.py").write_text(_TRAINER)

    def start(self, environ: dict[str, str] | None = None, **fields: Any) -> subprocess.Popen[str]:
        job = {
            "request_id": "run-7",
            "trainer": "tuning:Tuner",
            "max_steps": 6,
            "metric_every": 1,
            "mock_batches": [{"x": number} for number in range(1, 21)],
            **fields,
        }
        (self.folder / "job.json").write_text(json.dumps(job))
        kept = {name: value for name, value in os.environ.items() if "TRAINER" not in name}
        return subprocess.Popen(
            [sys.executable, "-m", "gen_worker.entrypoint"],
            cwd=self.folder,
            env={
                **kept,
                "WORKER_MODE": "trainer",
                "TRAINER_JOB_SPEC_PATH": "job.json",
                "TRAINER_ARTIFACTS_DIR": "out",
                **(environ or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, environ: dict[str, str] | None = None, **fields: Any) -> tuple[int, str]:
        process = self.start(environ, **fields)
        _, log = process.communicate(timeout=_PATIENCE_S)
        return process.returncode, log

    def events(self, path: str = "metrics/events.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / path).read_text().splitlines()]

    def told(self, *names: str) -> list[tuple[Any, ...]]:
        """Return event and step, and what else matters of each."""
        found = []
        for one in self.events():
            more = [one[key] for key in ("name", "error") if key in one]
            found.append((one["event"], *more, *([one["step"]] if "step" in one else [])))
        return [one for one in found if not names or one[0] in names]

    def weight(self, name: str = "final") -> float:
        return float(json.loads((self.out / "checkpoints" / name / "weights.json").read_text()))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_a_whole_run(job: Job) -> None:
    code, log = job.run(
        checkpoint_every=4, sample_every=6, sample_seed=3, sample_prompts=["a", {"prompt": "b"}]
    )

    assert code == 0, log
    assert job.told("started", "checkpoint", "sample", "completed") == [
        ("started",),
        ("checkpoint", 4),
        ("sample", 6),
        ("sample", 6),
        ("completed", 6),
    ]
    metrics = [one for one in job.events() if one["event"] == "metric"]
    assert [one["name"] for one in metrics[:2]] == ["train/loss", "train/lr"]
    assert (metrics[1]["value"], metrics[-1]["step"]) == (0.5, 6)
    assert [one["seq"] for one in job.events()] == list(range(1, len(job.events()) + 1))
    assert {one["request_id"] for one in job.events()} == {"run-7"}
    assert job.weight("step-00000004") == 5.0
    assert job.weight() == 10.5
    final = json.loads((job.out / "checkpoints" / "final.json").read_text())
    assert (final["step"], final["trainer_checkpoint"]["told_step"]) == (6, 6)
    assert job.events()[-1]["final_checkpoint"].endswith("final/weights.json")
    sample = json.loads((job.out / "samples" / "step-00000006-01.json").read_text())
    assert (sample["made"], sample["with"]) == ("B", 3)
    assert "worker.startup.phase" in log
    assert "trainer_mode_selected" in log


def test_a_run_that_was_killed_goes_on(job: Job) -> None:
    process = job.start(checkpoint_every=2, resume_from_latest=True, hyperparams={"slow": 0.05})
    assert process.stdout is not None
    for line in process.stdout:
        if line == "STEP 4\n":
            break
    process.kill()
    process.communicate(timeout=_PATIENCE_S)

    code, log = job.run(checkpoint_every=2, resume_from_latest=True)

    assert code == 0, log
    assert job.weight() == 10.5
    step = int(next(one for one in job.told("metric") if "resumed" in one[1])[2])
    assert step in (2, 4)
    assert (job.folder / "loaded.txt").read_text().endswith(f"checkpoints/step-{step:08d}")
    assert job.told("completed") == [("completed", 6)]


def test_a_finished_run_is_finished_until_it_is_to_be_longer(job: Job) -> None:
    assert job.run(resume_from_latest=True)[0] == 0
    assert job.run(resume_from_latest=True)[0] == 0
    assert job.told("started", "completed") == [("started",), ("completed", 6)] * 2
    assert not (job.folder / "loaded.txt").exists()

    code, log = job.run(resume_from_latest=True, max_steps=8)

    assert code == 0, log
    assert job.weight() == 18.0
    assert job.told("completed")[-1] == ("completed", 8)


def test_an_explicit_checkpoint_needs_no_second_word(job: Job) -> None:
    job.run(checkpoint_every=2)
    path = job.out / "checkpoints" / "step-00000004.json"

    code, log = job.run(max_steps=5, resume_checkpoint_path=str(path))

    assert code == 0, log
    assert job.weight() == 7.5


def test_an_explicit_checkpoint_is_where_the_first_attempt_begins(job: Job) -> None:
    """A later one goes on where the job has come to, and does not need it any more."""
    job.run(checkpoint_every=2)
    job.out.rename(job.folder / "before")
    path = job.folder / "before" / "checkpoints" / "step-00000002.json"
    wanted: dict[str, Any] = {
        "checkpoint_every": 1,
        "resume_from_latest": True,
        "max_steps": 8,
        "resume_checkpoint_path": str(path),
    }
    process = job.start(hyperparams={"slow": 0.05}, **wanted)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "STEP 6\n":
            break
    process.kill()
    process.communicate(timeout=_PATIENCE_S)
    path.unlink()

    for _ in range(2):
        code, log = job.run(**wanted)
        assert code == 0, log

    assert job.weight() == 18.0
    resumed = [int(one[2]) for one in job.told("metric") if "resumed" in one[1]]
    assert resumed[0] == 2
    assert resumed[1] in (4, 5)
    assert len(resumed) == 2, "the last attempt finds it finished"
    assert not [*job.out.glob("checkpoints/earlier-*")]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_keeps_what_was_learned(job: Job, number: int, code: int) -> None:
    process = job.start(max_steps=20, hyperparams={"slow": 0.1})
    assert process.stdout is not None
    for line in process.stdout:
        if line == "STEP 3\n":
            break
    process.send_signal(number)
    process.communicate(timeout=_PATIENCE_S)

    assert process.returncode == code
    (name,) = (path.stem for path in (job.out / "checkpoints").glob("step-*.json"))
    step = int(name.removeprefix("step-"))
    assert step >= 3
    assert job.weight(name) == sum(range(1, step + 1)) / 2
    assert job.told("checkpoint", "failed") == [("checkpoint", step), ("failed", "canceled", step)]
    assert not (job.out / "checkpoints" / "final.json").exists()


def test_a_cancel_file_and_a_time_limit(job: Job) -> None:
    (job.folder / "stop").touch()
    code, _ = job.run(cancel_file_path="stop")
    assert code == 1
    assert job.told("failed") == [("failed", "canceled", 0)]

    code, _ = job.run(max_steps=20, max_runtime_seconds=1, hyperparams={"slow": 0.2})
    assert code == 1
    assert job.told("failed")[-1][:2] == ("failed", "timeout")


@pytest.mark.parametrize(
    ("fields", "failed"),
    [
        ({"hyperparams": {"fails": 3}}, ("failed", "the loss exploded", 3)),
        (
            {"hyperparams": {"fails": "setup"}},
            ("failed", "model-load:failed to initialize trainer model/backend", 0),
        ),
        (
            {"trainer": "tuning:Nobody"},
            ("failed", "model-load:failed to initialize trainer model/backend", 0),
        ),
        (
            {"trainer": ""},
            (
                "failed",
                "startup:startup.missing_trainer_import: nothing says which trainer to run: set "
                "`trainer` in the job spec to module:Class, or TRAINER_PLUGIN",
                0,
            ),
        ),
        ({"max_steps": -1}, ("failed", "startup:max_steps must not be negative, it is -1", 0)),
        (
            {"inputs": {"dataset_parquet_refs": ["file:///nowhere/at/all.parquet"]}},
            ("failed", "input:failed to materialize training inputs", 0),
        ),
        (
            {"mock_batches": [{"y": 1}]},
            ("failed", "input:'x'", 1),
        ),
        ({"resume_checkpoint_path": "none.json"}, None),
    ],
)
def test_what_fails_is_put_down_to_its_cause(
    job: Job, fields: dict[str, Any], failed: tuple[Any, ...] | None
) -> None:
    code, log = job.run(**fields)

    assert code == 1
    told = job.told("failed", "completed")
    assert len(told) == 1
    assert told[0][0] == "failed"
    if failed is not None:
        assert told == [failed]
    assert '"phase_context":"trainer_runtime"' in log


@pytest.mark.claims("TRAINER_JOB_SPEC_PATH")
def test_a_job_spec_that_is_none_leaves_an_event(job: Job) -> None:
    job.run()
    (job.out / "metrics" / "events.jsonl").unlink()
    environ = {"TRAINER_JOB_SPEC_PATH": "none.json"}

    code, _ = job.run(environ)

    assert code == 1
    (event,) = job.events()
    assert (event["event"], event["step"]) == ("failed", 0)
    assert event["error"].startswith("startup:")


@pytest.mark.claims(
    "TRAINER_ARTIFACTS_DIR",
    "TRAINER_CHECKPOINTS_DIR",
    "TRAINER_SAMPLES_DIR",
    "TRAINER_METRICS_DIR",
    "TRAINER_EVENTS_PATH",
)
def test_every_place_can_be_chosen(job: Job, tmp_path: Path) -> None:
    environ = {
        "TRAINER_ARTIFACTS_DIR": "",
        "TRAINER_CHECKPOINTS_DIR": str(tmp_path / "a"),
        "TRAINER_SAMPLES_DIR": str(tmp_path / "b"),
        "TRAINER_METRICS_DIR": str(tmp_path / "c"),
        "TRAINER_EVENTS_PATH": str(tmp_path / "d" / "told.jsonl"),
        "TRAINER_PLUGIN": "tuning:Tuner",
    }
    before = os.path.exists("/tmp/training")

    code, log = job.run(environ, trainer="other:Thing", sample_every=6)

    assert code == 0, log
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} >= {"a", "b", "d"}
    assert (tmp_path / "d" / "told.jsonl").is_file()
    assert (tmp_path / "a" / "final.json").is_file()
    assert (tmp_path / "b" / "step-00000006.txt").is_file()
    assert os.path.exists("/tmp/training") == before


def test_two_jobs_on_one_directory(job: Job) -> None:
    first = job.start(max_steps=20, hyperparams={"slow": 0.2})
    assert first.stdout is not None
    first.stdout.readline()

    code, log = job.run()

    assert code == 1
    assert f"process {first.pid} writes its checkpoints" in log
    first.terminate()
    first.communicate(timeout=_PATIENCE_S)
    assert first.returncode == 143


def test_neither_torch_nor_pyarrow_is_needed(job: Job) -> None:
    (job.folder / "sitecustomize.py").write_text(
        "import sys\nfor name in ('torch', 'pyarrow', 'numpy'): sys.modules[name] = None\n"
    )

    code, log = job.run({"PYTHONPATH": str(job.folder)}, checkpoint_every=2)

    assert code == 0, log
    assert job.weight() == 10.5


def test_a_mode_nobody_knows() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "gen_worker.entrypoint"],
        env={**os.environ, "WORKER_MODE": "training"},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
    )

    assert run.returncode == 1
    assert "settings_load" in run.stderr
