"""The two commands of the README: the loss falls, and the images and the LoRA are there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")
Image: Any = pytest.importorskip("PIL.Image")

PROJECT = Path(__file__).parents[1]
OUT = Path(".gen-worker-train/shapes")


def run(folder: Path, *words: str) -> str:
    """Run Python on these words and return what it printed."""
    answer = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT / "src"),
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_loss_falls_and_the_prompts_are_shown(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "trainer_job.json", tmp_path)
    assert "6 images in shapes" in run(tmp_path, "-m", "lora_diffusion.prepare")

    run(tmp_path, "-m", "gen_worker.cli", "train", "trainer_job.json")

    out = tmp_path / OUT
    events = [json.loads(line) for line in (out / "metrics/events.jsonl").open(encoding="utf-8")]
    losses = [event["value"] for event in events if event.get("name") == "train/loss"]
    assert losses[-1] < 0.6 * losses[0]
    assert events[-1]["event"] == "completed"
    assert (out / "checkpoints/final/pytorch_lora_weights.safetensors").is_file()
    grids = [Image.open(out / f"samples/step-000000{step}-grid.png") for step in (20, 40)]
    assert grids[0].size == grids[1].size == (3 * 36 + 4, 16 + 36 + 4)
    assert grids[0].tobytes() != grids[1].tobytes()
