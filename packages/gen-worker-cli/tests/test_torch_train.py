"""`gen-worker train --nproc N`: several processes, one run, one voice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

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
JOB = {
    "request_id": "run-7",
    "trainer": "counting:Counter",
    "max_steps": 3,
    "metric_every": 1,
    "mock_batches": [1, 10, 2, 20, 3, 30],
}


@pytest.mark.claims("train.nproc")
def test_processes_train_together_and_one_speaks(cli: Cli) -> None:
    (cli.folder / "counting.py").write_text(TRAINER)
    (cli.folder / "job.json").write_text(json.dumps(JOB))

    done = cli("train", "job.json", "--nproc", "2", OMP_NUM_THREADS="1")

    assert done.code == 0, done.stderr
    words = [" ".join(line.split()[:2]) for line in done.stdout.splitlines()]
    steps = [f"metric step={step}" for step in (1, 2, 3)]
    assert words == ["started request_id=run-7", *steps, "completed step=3"]
    assert done.stderr.splitlines().count("printed by an author") == 1
    assert "[rank 1] printed by an author" in done.stderr
    assert not list(cli.folder.glob(".gen-worker-train/*/.job-*"))


@pytest.mark.claims("train.nproc")
def test_a_process_that_fails_fails_the_run(cli: Cli) -> None:
    (cli.folder / "counting.py").write_text(TRAINER)
    (cli.folder / "job.json").write_text(json.dumps({**JOB, "hyperparams": {"fails_on": 20}}))

    done = cli("train", "job.json", "--nproc", "2", OMP_NUM_THREADS="1")

    assert done.code == 1
    assert "[rank 1] gen-worker train: RuntimeError: the loss exploded" in done.stderr
    assert "failed step=2" in done.stdout
