"""A run that is killed at any moment and gone on with is, bit for bit, the run that was not."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

_STEPS = 62
"""Several epochs, and an end in the middle of an accumulation."""


def command(script: str, directory: Path, log: Path) -> list[str]:
    path = str(Path(__file__).with_name(script))
    return [sys.executable, path, str(directory), str(_STEPS), str(log)]


def read(log: Path) -> list[Any]:
    """Return the whole lines of a log; a kill may have left half of one."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if "\n" in line]


@pytest.fixture(scope="module", params=["resumed_run.py", "resumed_gradients.py"])
def script(request: pytest.FixtureRequest) -> str:
    """A trainer that does all by itself; one that is written with a model and a loss."""
    return str(request.param)


@pytest.fixture(scope="module")
def whole(script: str, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each step of a run was that nobody killed, and its end."""
    directory = tmp_path_factory.mktemp("whole")
    arguments = command(script, directory, directory / "log")
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    start, *steps = read(directory / "log")
    assert start == 0
    assert len(steps) == _STEPS + 1
    return steps


@pytest.mark.chaos(seeds=1)  # a process imports torch for seconds
def test_a_killed_run_goes_on_bit_for_bit(
    tmp_path: Path, script: str, whole: list[Any], seed: int
) -> None:
    chance = random.Random(seed)
    said = 0
    starts = []
    for number in range(1 + seed % 2):
        log = tmp_path / f"log-{number}"
        said = max(said, kill_somewhere(script, tmp_path, log, chance))
        start, *steps = read(log) or [0]
        starts.append(start)
        assert steps == whole[start : start + len(steps)]

    log = tmp_path / "log"
    subprocess.run(command(script, tmp_path, log), check=True, stdout=subprocess.DEVNULL)
    start, *steps = read(log)
    assert start >= said
    assert starts == sorted(starts)
    assert steps == whole[start:]


def kill_somewhere(script: str, directory: Path, log: Path, chance: random.Random) -> int:
    """Run until a checkpoint was reported, and a little longer; return the last one reported.

    The run may be over before.
    """
    arguments = command(script, directory, log)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        said = [int(line) for line in [run.stdout.readline()] if line]
        try:
            run.wait(chance.uniform(0.0, 0.15))
        except subprocess.TimeoutExpired:
            run.kill()
        said += [int(line) for line in run.stdout]
    return max(said, default=0)
