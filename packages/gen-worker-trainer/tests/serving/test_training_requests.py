"""A training is a request like others: followed, canceled, taken over, and published."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import CanceledError, DeadlineExceededError
from gen_worker.models.hub import HubClient, pull_folder
from gen_worker.models.refs import TensorhubRef, parse_ref
from gen_worker.testing.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 120.0
TUNED = {"ref": "acme/tuned", "tags": ["best", "v1"]}


class WorkerProcess:
    """A worker that can be killed."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        ask = urllib.request.Request(
            f"{platform.url}/v1/workers/tokens",
            json.dumps({"endpoint": "tuning"}).encode(),
            method="POST",
        )
        with urllib.request.urlopen(ask, timeout=PATIENCE_S) as answer:
            ticket = json.loads(answer.read())
        self._log = open(folder / f"{ticket['worker_id']}.log", "wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gen_worker.entrypoint"],
            cwd=ticket["source"],
            env={
                **os.environ,
                "WORKER_JWT": ticket["token"],
                "PUBLIC_ORCHESTRATOR_GRPC_ADDR": ticket["address"],
                "GEN_WORKER_LOCK": ticket["lock"],
                "SCHEDULER_JWKS_URL": f"{platform.url}/.well-known/jwks.json",
                "WORKER_JOB_DIR": str(folder / ticket["worker_id"]),
                "TMPDIR": str(folder),
            },
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def stop(self) -> int:
        """Have it drain, as a machine that goes away does."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "endpoint.toml").write_text('schema_version = 1\nname = "tuning"\nmain = "tuning"\n')
    shutil.copyfile(Path(__file__).with_name("tuning.py"), folder / "tuning.py")
    return folder


@pytest.fixture
def add_worker(tmp_path: Path) -> Iterator[Callable[[Platform], WorkerProcess]]:
    """Start workers on one machine: what a job has kept there they all find."""
    workers: list[WorkerProcess] = []

    def add(platform: Platform) -> WorkerProcess:
        workers.append(WorkerProcess(platform, tmp_path))
        return workers[-1]

    yield add
    for worker in workers:
        worker.kill()


def steps_told(flag: Path) -> list[tuple[int, int]]:
    """Return who did which step, in order."""
    lines = flag.read_text().splitlines() if flag.exists() else []
    return [(int(pid), int(step)) for pid, _, step in (line.partition(" ") for line in lines)]


def wait_for_step(flag: Path, step: int) -> None:
    """Wait until somebody is at a step."""
    until = time.monotonic() + PATIENCE_S
    while not any(one == step for _, one in steps_told(flag)):
        assert time.monotonic() < until, "nobody gets that far"
        time.sleep(0.01)


def wait_for_file(folder: Path, name: str) -> Path:
    """Wait until a job has kept a checkpoint: who waits for its answer may have that before."""
    until = time.monotonic() + PATIENCE_S
    while not (found := [*folder.glob(f"txform-persistent/*/training/checkpoints/{name}")]):
        assert time.monotonic() < until, "it is not kept"
        time.sleep(0.01)
    return found[0]


def published(ref: str, folder: Path) -> dict[str, Any]:
    """Return the JSON files that a platform's hub has under a ref."""
    parsed = parse_ref(ref)
    assert isinstance(parsed, TensorhubRef)
    with HubClient(os.environ["TENSORHUB_URL"]) as client:
        pull_folder(client, parsed, folder)
    return {path.name: json.loads(path.read_text()) for path in folder.rglob("*.json")}


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the checkpoints of this test's jobs to itself."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def platform(own_tmp: None, project: Path) -> Iterator[Platform]:
    del own_tmp
    with Platform(project) as platform:
        yield platform


def of(events: list[Any], name: str) -> list[dict[str, Any]]:
    """Return what the events of one type say."""
    told = (event.data for event in events if event.name == "event")
    return [one["payload"] for one in told if one["event_type"] == name]


def test_a_training_is_followed_and_published(platform: Platform, tmp_path: Path) -> None:
    job = platform.client.submit("tune", {"steps": 6, "destination": TUNED})
    events = list(job.events())

    assert events[-1].name == "result"
    told = [event.data["payload"]["progress"] for event in events if event.name == "progress"]
    assert told == sorted(told)
    assert told[-1] == 1.0
    last = of(events, "trainer.metrics")[-1]
    assert (last["step"], last["metrics"]["train/loss"]) == (6, 1 / 6)
    assert [one["step"] for one in of(events, "trainer.checkpoint")] == [2, 4, 6]
    assert [one["step"] for one in of(events, "trainer.sample")] == [3, 6]
    assert of(events, "trainer.completed") == [{"step": 6}]
    assert of(events, "tuned") == [{"loss": 1 / 6, "step": 6}]
    for tag in TUNED["tags"]:
        files = published(f"acme/tuned:{tag}", tmp_path / tag)
        assert files["sum.json"] == 21
        assert files["checkpoint.json"]["state"]["seen"] == [1, 2, 3, 4, 5, 6]


def test_a_canceled_training_keeps_what_it_has_learned(platform: Platform, tmp_path: Path) -> None:
    flag = tmp_path / "steps"
    (tmp_path / "steps.pause").touch()
    job = platform.client.submit(
        "tune", {"steps": 9, "flag": str(flag), "pause_at": 5, "destination": TUNED}
    )
    wait_for_step(flag, 5)
    job.cancel()
    with pytest.raises(CanceledError):
        job.result()
    kept = wait_for_file(tmp_path, "step-00000005.json")
    assert not kept.with_name("final.json").exists()


def test_a_deadline_is_a_timeout(platform: Platform, tmp_path: Path) -> None:
    flag = tmp_path / "steps"
    (tmp_path / "steps.pause").touch()
    job = platform.client.submit(
        "tune", {"steps": 9, "flag": str(flag), "pause_at": 3}, timeout_s=2.0
    )
    with pytest.raises(DeadlineExceededError):
        job.result()
    wait_for_file(tmp_path, "step-00000003.json")


def test_a_step_that_raises_fails_the_request(platform: Platform) -> None:
    job = platform.client.submit("tune", {"steps": 6, "fails_at": 4, "destination": TUNED})
    events = list(job.events())
    assert events[-1].name == "error"
    assert of(events, "trainer.failed") == [{"step": 4, "error": "the loss exploded"}]


def test_a_worker_that_vanishes_has_a_successor_that_goes_on(
    platform: Platform, tmp_path: Path
) -> None:
    flag = tmp_path / "steps"
    platform.faults.lose_worker(at="result")
    job = platform.client.submit("tune", {"steps": 6, "flag": str(flag), "destination": TUNED})
    job.result()
    assert [step for _, step in steps_told(flag)] == [1, 2, 3, 4, 5, 6]
    assert platform.attempts(job.id) == 2
    assert published("acme/tuned:best", tmp_path / "best")["sum.json"] == 21


@pytest.mark.one_python
def test_a_worker_that_is_killed_has_a_successor_that_goes_on(
    project: Path, tmp_path: Path, add_worker: Callable[[Platform], WorkerProcess]
) -> None:
    flag, pause = tmp_path / "steps", tmp_path / "steps.pause"
    pause.touch()
    with Platform(project, workers=0, lost_after_s=0.2) as platform:
        first = add_worker(platform)
        job = platform.client.submit(
            "tune", {"steps": 8, "flag": str(flag), "pause_at": 5, "destination": TUNED}
        )
        wait_for_step(flag, 5)
        os.kill(first.process.pid, 9)
        first.process.wait()
        pause.unlink()
        second = add_worker(platform)
        events = list(job.events())

        assert events[-1].name == "result"
        assert platform.attempts(job.id) == 2
        before = [step for pid, step in steps_told(flag) if pid == first.process.pid]
        after = [step for pid, step in steps_told(flag) if pid == second.process.pid]
        assert before == [1, 2, 3, 4, 5]
        assert after == [5, 6, 7, 8], "it goes on at the last checkpoint, of step 4"
        files = published("acme/tuned:v1", tmp_path / "pulled")
        assert files["sum.json"] == 36
        assert files["checkpoint.json"]["state"]["seen"] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.one_python
def test_a_worker_that_is_sent_away_keeps_what_it_has_learned(
    project: Path, tmp_path: Path, add_worker: Callable[[Platform], WorkerProcess], monkeypatch: Any
) -> None:
    flag, pause = tmp_path / "steps", tmp_path / "steps.pause"
    pause.touch()
    monkeypatch.setenv("WORKER_DRAIN_TIMEOUT_SECONDS", "0.2")
    with Platform(project, workers=0, lost_after_s=0.2) as platform:
        first = add_worker(platform)
        job = platform.client.submit(
            "tune", {"steps": 8, "flag": str(flag), "pause_at": 5, "destination": TUNED}
        )
        wait_for_step(flag, 5)
        first.stop()
        pause.unlink()
        second = add_worker(platform)
        job.result()
        after = [step for pid, step in steps_told(flag) if pid == second.process.pid]
        assert after == [6, 7, 8], "the step it was at is kept, too"
