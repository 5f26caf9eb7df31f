"""A scheduler that is killed at any moment: what it had told is there, once and whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PEER = Path(__file__).with_name("ledger_process.py")
KILLS = 6


@pytest.mark.chaos
def test_kill_at_any_moment(folder: Path, seed: int) -> None:
    folder.mkdir()
    command = [sys.executable, str(PEER), str(folder), str(seed), str(KILLS)]
    print(f"seed {seed}: {' '.join(command)}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *wrong, last = done.stdout.splitlines()
    assert wrong == []
    word, ended, told = last.split()
    assert word == "done"
    assert 0 < int(ended) < int(told)
