"""Processes that share a store are killed at any moment: what is there afterwards is whole.

Checked after every run: each present snapshot has all of its bytes, each blob hashes to its name,
no lease outlives its process, nothing is left over, nothing is outside of the store, everything can
be built again. Checked by every reader meanwhile: what it leased is whole and stays.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PEER = Path(__file__).with_name("store_peer.py")
KILLS = 25
STEP = 20

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the peers fork and kill")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory where there is one: a killed process needs no disk that waits."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gen-worker-store-", dir=memory) as path:
        yield Path(path)


def peer(*arguments: str) -> list[str]:
    """Run the peers; return what they had to say, one line each."""
    command = [sys.executable, str(PEER), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.chaos
@pytest.mark.parametrize("links", ["hard", "symbolic"])
def test_kill_at_any_moment(place: Path, seed: int, links: str) -> None:
    arguments = ("chaos", str(place / "cas"), str(seed), str(KILLS), links)
    print(f"seed {seed}: {sys.executable} {PEER} {' '.join(arguments)}")
    assert peer(*arguments) == []
    assert [path.name for path in place.iterdir()] == ["cas"]


@pytest.mark.chaos
@pytest.mark.parametrize("scenario", ["build", "evict", "repair"])
def test_kill_before_a_file_operation(place: Path, scenario: str, seed: int) -> None:
    """Of every twenty operations one is tried per seed; twenty seeds try them all."""
    arguments = ("crash", str(place / "cas"), scenario, str(seed % STEP + 1), str(STEP))
    print(f"seed {seed}: {sys.executable} {PEER} {' '.join(arguments)}")
    *violations, last = peer(*arguments)
    assert violations == []
    word, count = last.split()
    assert word == "done"
    assert int(count) > STEP
    assert [path.name for path in place.iterdir()] == ["cas"]
