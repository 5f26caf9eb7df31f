"""`gen-worker train --nproc N`: several processes, one run, one voice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from conftest import Cli

pytest.importorskip("torch")

TRAINER = """
class Counter:
    def setup(self, ctx):
        print("printed by an author", flush=True)

    def configure(self, ctx):
        return {"sum": 0.0}

    def prepare_batch(self, raw_batch, state, ctx):
        return raw_batch

    def train_step(self, batch, state, ctx):
        state["sum"] += batch
        if ctx.job.hyperparams.get("fails_on") == batch:
            raise RuntimeError("the loss exploded")
        return type("Result", (), {"metrics": {"loss": state["sum"]}})()

    def state_dict(self, state):
        return dict(state)

    def load_state_dict(self, state, payload, ctx):
        state.update(payload)
"""
# The bytecode of torch is where it always is, and need not be made for these tests.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": ""}
PATIENCE_S = 300.0
JOB: dict[str, Any] = {
    "request_id": "run-7",
    "trainer": "counting:Counter",
    "max_steps": 3,
    "metric_every": 1,
    "mock_batches": [1, 10, 2, 20, 3, 30],
}


class Finished(NamedTuple):
    code: int
    stdout: str
    stderr: str


def train(cli: Cli, **job: Any) -> Finished:
    (cli.folder / "counting.py").write_text(TRAINER)
    (cli.folder / "job.json").write_text(json.dumps({**JOB, **job}))
    process = cli.start("train", "job.json", "--nproc", "2", **ENVIRONMENT)
    out, log = process.communicate(timeout=PATIENCE_S)
    return Finished(process.returncode, out, log)


@pytest.mark.claims("train.nproc")
def test_processes_train_together_and_one_speaks(cli: Cli) -> None:
    done = train(cli)

    assert done.code == 0, done.stderr
    words = [" ".join(line.split()[:2]) for line in done.stdout.splitlines()]
    steps = [f"metric step={step}" for step in (1, 2, 3)]
    assert words == ["started request_id=run-7", *steps, "completed step=3"]
    assert done.stderr.splitlines().count("printed by an author") == 1
    assert "[rank 1] printed by an author" in done.stderr
    assert not list(cli.folder.glob(".gen-worker-train/*/.job-*"))


@pytest.mark.claims("train.nproc")
def test_a_process_that_fails_fails_the_run(cli: Cli) -> None:
    done = train(cli, hyperparams={"fails_on": 20})

    assert done.code == 1
    assert "[rank 1] gen-worker train: RuntimeError: the loss exploded" in done.stderr
    assert "failed step=2" in done.stdout
