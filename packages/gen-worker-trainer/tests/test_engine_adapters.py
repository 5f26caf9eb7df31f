"""Engines that loop by themselves: in a thread that is paced, and as a program of their own."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import run_training_runtime
from gen_worker.trainer.adapters import CommandTrainer, ScriptTrainer
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gen_worker.trainer.adapters import ScriptRun


class Counting(ScriptTrainer):
    """Adds random numbers; `fails_at` and `ends_at` are steps."""

    def main(self, run: ScriptRun) -> None:
        value = 0.0
        if run.resume_from is not None:
            value = json.loads((run.resume_from / "value.json").read_text())
        hyperparams = run.ctx.job.hyperparams

        def save(directory: Path) -> None:
            (directory / "value.json").write_text(json.dumps(value))

        run.on_save(save)
        run.on_sample(lambda: {"value": value})
        for step in range(run.start_step + 1, 1000):
            if step == hyperparams.get("fails_at"):
                raise ValueError("the loss exploded")
            value += random.random()
            run.step({"loss": value})
            if step == hyperparams.get("ends_at"):
                return


ENGINE = """
import json, os, pathlib, signal, sys, time
config = json.loads(pathlib.Path("config.json").read_text())
start = json.loads(pathlib.Path(config["from"]).read_text()) if config["from"] else 0
if config["deaf"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("loading the model as", os.getpid(), flush=True)
for step in range(start + 1, config["steps"] + 1):
    time.sleep(config["slow"])
    if step == config["fails_at"]:
        sys.exit("out of memory")
    pathlib.Path("saved.json").write_text(json.dumps(step))
    if step % 2 == 0:
        print(f"step: {step} loss: {1 / step}", flush=True)
"""


class Program(CommandTrainer):
    grace_s = 0.2

    def command(self, ctx: Any, directory: Path, resume_from: Path | None) -> list[str]:
        given = {"steps": ctx.job.max_steps, "slow": 0, "fails_at": 0, "deaf": False}
        config = {**given, "from": str(resume_from or ""), **ctx.job.hyperparams}
        (directory / "config.json").write_text(json.dumps(config))
        return [sys.executable, "-c", textwrap.dedent(ENGINE)]

    def checkpoint(self, directory: Path) -> Path | None:
        path = directory / "saved.json"
        return path if path.exists() else None


class Runs:
    """Runs jobs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"

    def run(
        self, trainer: str, observer: Callable[[dict[str, Any]], object] | None = None, **job: Any
    ) -> int:
        fields = {
            "request_id": "r",
            "trainer": f"{__name__}:{trainer}",
            "max_steps": 6,
            "metric_every": 1,
            "mock_batches": [None],
            "dataset": {"epochs": 0},
            "seed": 1,
            **job,
        }
        spec = self.folder / "job.json"
        spec.write_text(json.dumps(fields))
        settings = TrainerSettings(job_spec_path=str(spec), artifacts_dir=str(self.out))
        return run_training_runtime(settings, observer=observer)

    def events(self, *names: str) -> list[dict[str, Any]]:
        lines = (self.out / "metrics" / "events.jsonl").read_text().splitlines()
        return [one for one in map(json.loads, lines) if one["event"] in names]

    def losses(self) -> dict[int, float]:
        told = [one for one in self.events("metric") if one["name"] == "train/loss"]
        return {one["step"]: one["value"] for one in told}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_a_function_is_run_step_by_step(runs: Runs) -> None:
    assert runs.run("Counting", checkpoint_every=3, sample_every=6, sample_prompts=["a"]) == 0

    assert list(runs.losses()) == [1, 2, 3, 4, 5, 6]
    kept = runs.out / "checkpoints"
    for name, step in (("step-00000003", 3), ("step-00000006", 6), ("final", 6)):
        assert (
            json.loads((kept / name / "engine" / "value.json").read_text()) == runs.losses()[step]
        )
    sample = json.loads((runs.out / "samples" / "step-00000006-00.json").read_text())
    assert sample["value"] == runs.losses()[6]


def test_a_function_goes_on_as_if_it_had_not_stopped(runs: Runs, tmp_path: Path) -> None:
    other = tmp_path / "whole"
    other.mkdir()
    whole = Runs(other)
    assert whole.run("Counting") == 0

    with pytest.raises(ValueError, match="exploded"):
        runs.run("Counting", checkpoint_every=2, hyperparams={"fails_at": 4})
    assert runs.events("failed")[0]["step"] == 4
    assert runs.run("Counting", resume_from_latest=True) == 0

    assert runs.losses() == whole.losses()


def test_a_function_that_ends_ends_the_run(runs: Runs) -> None:
    assert runs.run("Counting", hyperparams={"ends_at": 3}) == 0

    assert list(runs.losses()) == [1, 2, 3]
    assert runs.events("completed")


def test_a_function_is_canceled_between_steps(runs: Runs) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    assert runs.run("Counting", stop, max_steps=900) == 143

    kept = runs.events("checkpoint")[-1]
    saved = runs.out / f"checkpoints/step-{kept['step']:08d}/engine/value.json"
    assert json.loads(saved.read_text()) == runs.losses()[kept["step"]]


def test_a_program_is_followed_by_its_lines(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    assert runs.run("Program", checkpoint_every=4) == 0

    assert runs.losses() == {2: 1 / 2, 4: 1 / 4, 6: 1 / 6}
    assert "loading the model" in capfd.readouterr().out
    assert json.loads((runs.out / "checkpoints/final/engine/saved.json").read_text()) == 6
    assert runs.events("completed")[0]["step"] == 6


def test_a_program_that_fails_is_quoted(runs: Runs) -> None:
    with pytest.raises(RuntimeError, match=r"exit code 1; its last lines:\n(.*\n)*out of memory"):
        runs.run("Program", hyperparams={"fails_at": 5})

    assert runs.events("failed")[0]["step"] == 5


def test_a_program_goes_on_with_its_own_checkpoint(runs: Runs) -> None:
    with pytest.raises(RuntimeError):
        runs.run("Program", checkpoint_every=4, hyperparams={"fails_at": 5})

    assert runs.run("Program", resume_from_latest=True) == 0

    assert runs.losses() == {2: 1 / 2, 4: 1 / 4, 6: 1 / 6}


@pytest.mark.parametrize("is_deaf", [False, True])
def test_a_program_ends_with_a_canceled_run(
    runs: Runs, is_deaf: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    hyperparams = {"slow": 0.02, "deaf": is_deaf, "steps": 100_000}
    assert runs.run("Program", stop, max_steps=100_000, hyperparams=hyperparams) == 143

    assert runs.events("checkpoint")
    watchers = [one for one in threading.enumerate() if one.name == "gen-worker-engine-watch"]
    for watcher in watchers:
        watcher.join(60)
    found = re.search(r"the model as (\d+)", capfd.readouterr().out)
    assert found is not None
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[1]), 0)
