"""`gen-worker train`: a job runs in this process, is shown meanwhile, and can be gone on with."""

from __future__ import annotations

import json
import os
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Cli, Finished, Terminal

TRAINER = """
import time

class Tuner:
    def setup(self, ctx):
        print("printed by the author", flush=True)

    def configure(self, ctx):
        return {"steps": 0, "lr": 0.5}

    def prepare_batch(self, raw_batch, state, ctx):
        return raw_batch

    def train_step(self, batch, state, ctx):
        state["steps"] += 1
        time.sleep(float(ctx.job.hyperparams.get("slow", 0)))
        if ctx.job.hyperparams.get("fails_at") == state["steps"]:
            raise RuntimeError("the loss exploded")
        return type("Result", (), {"metrics": {"loss": batch["x"] / state["steps"]}})()

    def state_dict(self, state):
        return {"steps": state["steps"]}

    def load_state_dict(self, state, payload, ctx):
        state.update(payload)
"""
JOB: dict[str, Any] = {
    "request_id": "run-7",
    "trainer": "tuning:Tuner",
    "max_steps": 6,
    "metric_every": 2,
    "checkpoint_every": 4,
    "mock_batches": [{"x": 1.0}],
    "dataset": {"epochs": 0},
    "capability_token": "not-for-others",
}
OUT = ".gen-worker-train/run-7"


class Project:
    """A folder with a trainer below src/ and a job spec."""

    def __init__(self, cli: Cli) -> None:
        self.folder = cli.folder
        self._cli = cli
        (self.folder / "src").mkdir()
        (self.folder / "src" / "tuning.py").write_text(TRAINER)
        self.write()

    def write(self, **changes: Any) -> None:
        (self.folder / "job.json").write_text(json.dumps({**JOB, **changes}))

    def train(self, *words: str, **environment: str) -> Finished:
        return self._cli("train", *words, **environment)

    def events(self, folder: str = OUT) -> list[dict[str, Any]]:
        text = (self.folder / folder / "metrics" / "events.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def project(cli: Cli) -> Project:
    return Project(cli)


def first_words(text: str) -> list[str]:
    return [" ".join(line.split()[:2]) for line in text.splitlines()]


@pytest.mark.claims("train.job", "train.lines", "train.project")
def test_a_job_runs_to_its_end_and_says_so_in_lines(project: Project) -> None:
    done = project.train("job.json")

    assert done.code == 0, done.stderr
    assert first_words(done.stdout) == [
        "started request_id=run-7",
        "metric step=2",
        "metric step=4",
        "checkpoint step=4",
        "metric step=6",
        "completed step=6",
    ]
    facts = dict(word.split("=") for word in done.stdout.splitlines()[1].split()[1:])
    assert list(facts)[:5] == ["step", "max_steps", "steps_per_s", "eta_s", "train/loss"]
    assert (facts["max_steps"], facts["train/loss"], facts["train/lr"]) == ("6", "0.5", "0.5")
    assert "printed by the author" in done.stderr
    assert (project.folder / OUT / "checkpoints" / "final.json").is_file()


@pytest.mark.claims("train.json")
def test_events_are_printed_as_they_are_written(project: Project) -> None:
    done = project.train("job.json", "--json")

    assert done.code == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == project.events()


@pytest.mark.claims("train.resume", "train.last", "train.max-steps")
def test_the_last_job_goes_on_without_being_named(project: Project) -> None:
    project.write(request_id="older")
    assert project.train("job.json").code == 0
    project.write()
    assert project.train("job.json", "--set", "hyperparams.fails_at=5").code == 1
    remembered = project.folder / OUT / "job.json"
    assert stat.S_IMODE(remembered.stat().st_mode) == 0o600
    os.utime(remembered)  # the clocks of some file systems are slow

    done = project.train("--resume", "--max-steps", "8", "--set", "hyperparams.fails_at=null")

    assert done.code == 0, done.stderr
    assert first_words(done.stdout)[-1] == "completed step=8"
    assert "started request_id=run-7 step=4" in done.stdout
    assert [one["step"] for one in project.events() if one["event"] == "completed"] == [8]


@pytest.mark.claims("train.resume")
def test_a_job_that_is_completed_is_not_run_again(project: Project) -> None:
    project.train("job.json")

    done = project.train("job.json", "--resume")

    assert (done.code, first_words(done.stdout)[-1]) == (0, "completed step=6")
    assert "printed by the author" not in done.stderr


@pytest.mark.claims("train.artifacts", "train.set")
def test_where_a_job_writes(project: Project) -> None:
    assert project.train("job.json", "--artifacts-dir", "given").code == 0
    assert project.train("job.json", TRAINER_ARTIFACTS_DIR="set").code == 0
    assert project.train("job.json", "--set", "request_id=../a b").code == 0

    for folder in ("given", "set", ".gen-worker-train/%2E.%2Fa b"):
        assert project.events(folder)[-1]["event"] == "completed"
    assert not (project.folder / OUT).exists()
    assert sorted(os.listdir(project.folder / "given")) == ["checkpoints", "job.json", "metrics"]


@pytest.mark.claims("train.set")
def test_values_are_json_else_text(project: Project) -> None:
    changes = ["metric_every=1", "hyperparams.note=a b", "hyperparams.deep.list=[1]"]
    options = [word for one in changes for word in ("--set", one)]
    assert project.train("job.json", *options).code == 0

    told = json.loads((project.folder / OUT / "job.json").read_text())
    assert told["metric_every"] == 1
    assert told["hyperparams"] == {"note": "a b", "deep": {"list": [1]}}


@pytest.mark.claims("train.failed")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["trainer=nowhere:X"], "there is no module 'nowhere'"),
        (["trainer=tuning:Missing"], "has no 'Missing'"),
        (["max_steps=many"], "max_steps: "),
        (["trainer=null"], "startup.missing_trainer_import"),
        (["resume_checkpoint_path=gone.json"], "there is no checkpoint 'gone.json'"),
    ],
)
def test_what_is_wrong_with_a_job_is_a_sentence(
    project: Project, changes: list[str], told: str
) -> None:
    done = project.train("job.json", *(word for one in changes for word in ("--set", one)))

    assert done.code == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert first_words(done.stdout)[-1] == "failed step=0"
    assert project.events()[-1]["event"] == "failed"

    words = [word for one in changes for word in ("--set", one)]
    assert "Traceback" in project.train("job.json", *words, "--verbose").stderr


@pytest.mark.claims("train.failed")
def test_what_the_trainer_raises_has_its_place(project: Project) -> None:
    done = project.train("job.json", "--set", "hyperparams.fails_at=3")

    assert done.code == 1
    assert done.stderr.count("File ") == 1
    assert "in train_step" in done.stderr
    assert done.stderr.endswith("gen-worker train: RuntimeError: the loss exploded\n")
    assert 'failed step=3 error="the loss exploded"' in done.stdout


@pytest.mark.claims("train.usage")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "gen-worker train JOB.json"),
        (["--resume"], "no job has begun in './.gen-worker-train'"),
        (["--resume", "--artifacts-dir", "x"], "no job has begun in 'x'"),
        (["gone.json"], "'gone.json' cannot be read"),
        (["list.json"], "has to be one JSON object"),
        (["broken.json"], "is not JSON"),
        (["job.json", "--set", "a"], "has to be KEY=VALUE"),
        (["job.json", "--set", "max_steps.x=1"], "max_steps is 6, and has no keys"),
        (["job.json", "--artifacts-dir", "job.json"], "cannot be written to"),
        (["job.json", "--nproc", "0"], "at least 1"),
    ],
)
def test_a_command_that_names_no_job_is_wrong(
    project: Project, words: list[str], told: str
) -> None:
    (project.folder / "list.json").write_text("[]")
    (project.folder / "broken.json").write_text("{")

    done = project.train(*words)

    assert done.code == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.claims("train.check")
def test_a_job_is_tried_and_leaves_nothing(project: Project) -> None:
    before = sorted(os.listdir(project.folder))

    good = project.train("job.json", "--check", "--nproc", "2")
    bad = project.train("job.json", "--check", "--json", "--set", "hyperparams.fails_at=2")
    unread = project.train("job.json", "--check", "--set", "max_steps=many")

    assert (good.code, good.stdout.splitlines()[0].split()) == (0, ["ok", "trainer", "Tuner"])
    assert bad.code == 1
    assert [one["level"] for one in json.loads(bad.stdout)][-1] == "failed"
    assert "the loss exploded" in json.loads(bad.stdout)[-1]["text"]
    assert (unread.code, unread.stdout) == (1, "")
    assert "max_steps: " in unread.stderr
    assert sorted(os.listdir(project.folder)) == before


@pytest.mark.claims("train.signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_was_learned(
    project: Project, cli: Cli, number: int, code: int
) -> None:
    project.write(max_steps=100_000, metric_every=1, hyperparams={"slow": 0.01})
    process = cli.start("train", "job.json")
    assert process.stdout is not None
    assert any(line.startswith("metric step=2 ") for line in process.stdout)

    process.send_signal(number)
    _, log = process.communicate(timeout=60)

    assert process.returncode == code
    assert "gen-worker train --resume goes on" in log
    assert [one["event"] for one in project.events()[-2:]] == ["checkpoint", "failed"]


@pytest.mark.claims("train.reader")
def test_a_reader_that_has_gone_stops_no_run(project: Project, cli: Cli) -> None:
    project.write(max_steps=50, metric_every=1, hyperparams={"slow": 0.01})
    process = cli.start("train", "job.json")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    log = process.stderr.read()

    assert process.wait(60) == 0
    assert log.count("the run goes on without") == 1
    assert project.events()[-1]["event"] == "completed"


@pytest.mark.claims("train.terminal")
def test_a_person_sees_how_far_it_is(project: Project, terminal: Terminal) -> None:
    assert project.folder == terminal.folder
    terminal.start("train", "job.json", "--set", "hyperparams.slow=0.2")
    terminal.expect("step 4/6")
    assert terminal.wait() == 0
    shown = terminal.plain_text
    for text in ("eta", "steps/s", "█", "learning rate", "RAM", "checkpoint", "completed: .gen"):
        assert text in shown
    assert "printed by the author" in shown
    assert "metric step=" not in shown
