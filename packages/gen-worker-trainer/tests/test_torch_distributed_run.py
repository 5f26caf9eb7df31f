"""A job in two processes: killed anywhere it goes on bit for bit, and it ends as one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pa = pytest.importorskip("pyarrow")

pytestmark = pytest.mark.one_python

_RUN = Path(__file__).with_name("rank_training.py")
_LAUNCH = """
import sys
from gen_worker.trainer.distributed.launch import launch
sys.exit(launch([sys.executable, *sys.argv[1:]], 2, grace_s=300))
"""
_STEPS = 26
"""Two epochs and a half."""
_ROWS = 89


class Job:
    """One job and its attempts."""

    def __init__(self, directory: Path, parallel: str, **fields: Any) -> None:
        import pyarrow.parquet as pq  # type: ignore[import-not-found,import-untyped,unused-ignore]

        self.directory = directory
        rows = [[(one * k % 17) / 17 for k in range(1, 5)] for one in range(_ROWS)]
        features = pa.array(rows, pa.list_(pa.float32()))
        path = str(directory / "rows.parquet")
        pq.write_table(pa.table({"id": range(_ROWS), "features": features}), path, 13)
        self.spec = {
            "request_id": "run",
            "trainer": "rank_training:Trainer",
            "max_steps": _STEPS,
            "checkpoint_every": 3,
            "keep_last_checkpoints": 2,
            "resume_from_latest": True,
            "seed": 11,
            "hyperparams": {"parallel": parallel, "device": "cpu", **fields},
            "dataset": {
                "parquet_paths": [path],
                "batch_size": 4,
                "epochs": 0,
                "shuffle": True,
                "shuffle_buffer_rows": 16,
            },
        }

    def start(self, log: str) -> subprocess.Popen[str]:
        spec = self.directory / f"{log}.json"
        hyperparams: Any = self.spec["hyperparams"]
        told = {**hyperparams, "log": str(self.directory / log)}
        spec.write_text(json.dumps({**self.spec, "hyperparams": told}))
        argv = [str(_RUN), str(spec), str(self.directory / "training")]
        return subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, log: str) -> tuple[int, str]:
        with self.start(log) as run:
            said, _ = run.communicate()
            return run.returncode, said

    def log(self, log: str) -> list[list[Any]]:
        """Return the whole lines of each process; a kill may have left half of one."""
        logs = [(self.directory / f"{log}-{rank}").read_text() for rank in range(2)]
        return [
            [json.loads(line) for line in text.splitlines(keepends=True) if "\n" in line]
            for text in logs
        ]

    def events(self) -> list[dict[str, Any]]:
        path = self.directory / "training/metrics/events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[Any]]]:
    """What each step of each process was where nobody killed anything, and its end."""
    steps = {}
    for parallel in ("fsdp", "ddp"):
        job = Job(tmp_path_factory.mktemp(parallel), parallel)
        assert job.run("log") == (0, "")
        steps[parallel] = [lines for _, *lines in job.log("log")]
    return steps


@pytest.mark.chaos(seeds=2)  # each layout once
def test_all_are_killed_and_go_on_bit_for_bit(
    tmp_path: Path, whole: dict[str, list[list[Any]]], seed: int
) -> None:
    parallel = ("fsdp", "ddp")[seed % 2]
    expected = whole[parallel]
    job = Job(tmp_path, parallel)
    kill_somewhere(job, random.Random(seed))

    assert job.run("log") == (0, "")

    resumed = [lines for _, *lines in job.log("log")]
    left = len(resumed[0])
    assert resumed == [lines[-left:] for lines in expected]


def kill_somewhere(job: Job, chance: random.Random) -> None:
    """Kill all processes at some moment after the first checkpoint was told of."""
    with job.start("killed") as run:
        events = job.directory / "training/metrics/events.jsonl"
        while run.poll() is None and not (events.exists() and "checkpoint" in events.read_text()):
            with suppress(subprocess.TimeoutExpired):
                run.wait(0.01)
        with suppress(subprocess.TimeoutExpired):
            run.wait(chance.uniform(0, 0.3))
        for pid, *_ in job.log("killed"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.kill()
        run.communicate()


def test_each_has_its_share(whole: dict[str, list[list[Any]]]) -> None:
    one, two = ([ids for ids, _ in lines[:-1]] for lines in whole["ddp"])
    per_epoch = -(-_ROWS // 4) // 2
    seen = [number for ids in (*one[:per_epoch], *two[:per_epoch]) for number in ids]

    assert len(one) == len(two) == _STEPS
    assert len(seen) == len(set(seen))
    assert _ROWS - len(seen) < 2 * 4
    assert whole["ddp"][0][-1] == whole["ddp"][1][-1], "they have learned the same"


def test_one_that_fails_ends_the_run(tmp_path: Path) -> None:
    job = Job(tmp_path, "ddp", raise_at=5)

    code, said = job.run("log")

    assert code == 1
    assert "[rank 1]" in said
    *_, checkpoint, failed = job.events()
    assert (checkpoint["event"], checkpoint["step"]) == ("checkpoint", 3)
    assert failed["event"] == "failed"
    assert failed["error"] == "process 1 of 2 has failed: ValueError: no more"


def test_a_signal_stops_all_of_them(tmp_path: Path) -> None:
    job = Job(tmp_path, "ddp")
    job.spec["max_steps"] = 10**6
    with job.start("log") as run:
        events = job.directory / "training/metrics/events.jsonl"
        while not (events.exists() and "checkpoint" in events.read_text()):
            assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        run.communicate()

    assert run.returncode == 143
    *_, checkpoint, failed = job.events()
    assert (checkpoint["event"], failed["error"]) == ("checkpoint", "canceled")
    assert checkpoint["step"] == len(job.log("log")[0]) - 1 == len(job.log("log")[1]) - 1
