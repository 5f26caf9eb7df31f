"""A scheduler that is killed while it publishes: releases are there whole, or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PEER = Path(__file__).with_name("releases_process.py")
KILLS = 6


@pytest.mark.chaos
def test_kill_at_any_moment_of_a_publication(folder: Path, seed: int) -> None:
    folder.mkdir()
    command = [sys.executable, str(PEER), str(folder), str(seed), str(KILLS)]
    print(f"seed {seed}: {' '.join(command)}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    *wrong, last = done.stdout.splitlines()
    assert (done.returncode, wrong) == (0, [])
    errors = [line for line in done.stderr.splitlines() if "nobody was told" not in line]
    assert errors == []
    word, published, _ = last.split()
    assert word == "done"
    assert int(published) > 0
