"""A job that writes checkpoints is killed, at any moment: what it had said was saved is there."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from gen_worker.trainer.checkpoints import CheckpointStore

_JOB = """
import sys
from pathlib import Path
from gen_worker.trainer.checkpoints import CheckpointStore, Keeping
with CheckpointStore(sys.argv[1], Keeping(last=2)) as store:
    newest = store.newest()
    step = newest.checkpoint.step if newest else 0
    while True:
        step += 1
        with store.building(step, is_final=step % 3 == 0) as draft:
            for name in ("weights", "optimizer"):
                Path(draft.directory, name).write_bytes(b"%d " % step * 20_000)
            draft.commit("run", {"step": step})
        store.retire()
        print(step, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_what_was_said_to_be_saved_is_there_after_a_kill(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    said = 0
    for _ in range(4):
        command = [sys.executable, "-c", _JOB, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
            assert job.stdout is not None
            said = int(job.stdout.readline())
            try:
                job.wait(chance.uniform(0.0, 0.2))
            except subprocess.TimeoutExpired:
                job.kill()
            said = max([said, *(int(line) for line in job.stdout)])

        with CheckpointStore(str(tmp_path)) as store:
            found = store.newest()
            assert found is not None
            step = found.checkpoint.step
            assert step >= said
            for name in ("weights", "optimizer"):
                content = Path(found.directory, name).read_bytes()
                assert content == b"%d " % step * 20_000
            left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
            assert left == [".lock"]
