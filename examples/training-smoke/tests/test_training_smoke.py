"""The job runs as its launcher starts it; killed at any moment, it goes on as if it had not been."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training_smoke.bigrams import base_logits, learn, pairs_of

PROJECT = Path(__file__).parents[1]
SPEC = PROJECT / "trainer_job.example.json"
PATIENCE_S = 120.0


def start(out: Path, spec: Path = SPEC) -> subprocess.Popen[str]:
    """Start a trainer process as a container does: the spec is all it is told."""
    kept = {name: value for name, value in os.environ.items() if "TRAINER" not in name}
    return subprocess.Popen(
        [sys.executable, "-m", "gen_worker.entrypoint"],
        cwd=PROJECT,
        env={
            **kept,
            "WORKER_MODE": "trainer",
            "TRAINER_JOB_SPEC_PATH": str(spec),
            "TRAINER_ARTIFACTS_DIR": str(out),  # or two runs of these tests would meet in /tmp
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(out: Path, spec: Path = SPEC) -> None:
    process = start(out, spec)
    _, log = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, log


def events(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics" / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a run that nobody disturbed has written."""
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return out


def test_it_learns(whole: Path) -> None:
    losses = [one["value"] for one in events(whole) if one.get("name") == "train/loss"]

    assert len(losses) == 12
    assert losses[-1] < 0.75 * losses[0]
    learned = json.loads((whole / "checkpoints" / "final" / "weights.json").read_text())
    unseen = pairs_of("quack quickly, quoted the queen.")
    assert learn(learned, unseen).loss < learn(base_logits(), unseen).loss


def test_its_samples_and_checkpoints(whole: Path) -> None:
    samples = sorted(path.name for path in (whole / "samples").iterdir())
    assert samples == [f"step-000000{step}-0{n}.json" for step in (30, 60) for n in (0, 1)]
    sample = json.loads((whole / "samples" / samples[-1]).read_text())
    assert sample["seed"] == 11
    assert sample["text"].startswith("what ")
    assert sample["text"] != json.loads((whole / "samples" / samples[1]).read_text())["text"]
    checkpoint = whole / "checkpoints" / "step-00000020"
    assert {"optimizer.json", "weights.json"} <= set(os.listdir(checkpoint))
    assert events(whole)[-1]["final_checkpoint"].endswith("final/weights.json")


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_was_killed_is_the_run_that_was_not(
    whole: Path, tmp_path: Path, seed: int
) -> None:
    job = json.loads(SPEC.read_text())
    job.update(resume_from_latest=True, metric_every=1, checkpoint_every=7)
    spec = tmp_path / "job.json"
    spec.write_text(json.dumps(job))
    out = tmp_path / "out"
    last = random.Random(seed).randrange(2, 50)
    process = start(out, spec)
    assert process.stderr is not None
    reported = '"name":"train/loss","request_id":"smoke-1",'
    for line in process.stderr:
        if reported in line and f'"step":{last},' in line:
            break
    process.kill()
    process.communicate(timeout=PATIENCE_S)

    run(out, spec)

    for name in ("weights.json", "optimizer.json"):
        assert (out / "checkpoints/final" / name).read_bytes() == (
            whole / "checkpoints/final" / name
        ).read_bytes()
    states = [json.loads((one / "checkpoints/final.json").read_text()) for one in (out, whole)]
    assert states[0]["state"] == states[1]["state"]
    resumed = [one["step"] for one in events(out) if one.get("name") == "trainer/resumed_from_step"]
    assert (resumed or [0])[0] >= 7 * ((last - 1) // 7)
