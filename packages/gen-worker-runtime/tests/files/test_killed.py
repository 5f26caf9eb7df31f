"""Kill -9, at the hub's end and at the worker's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from gen_worker.context.local import run_blocking
from gen_worker.ports import FileLimits, SaveOptions
from gen_worker.runtime.files import FilePolicy, JobScope, WorkerFiles
from gen_worker.testing.held_port import HeldPort
from gen_worker.types import Asset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import MakeFiles, WebServer

PART = 64 * 1024


class HubProcess:
    """A hub that can be killed and started again, at the same place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = HeldPort()
        self._process: subprocess.Popen[str] | None = None
        self.scope = JobScope()
        self.start()

    def start(self) -> None:
        script = str(Path(__file__).with_name("hub_process.py"))
        self._process = subprocess.Popen(
            [sys.executable, script, str(self._folder), str(self._port.number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        token = self._process.stdout.readline().strip()
        if not self.scope.has_hub:
            url = f"http://127.0.0.1:{self._port.number}"
            self.scope = JobScope(base_url=url, capability_token=token, owner="acme", job_id="j")

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.communicate()

    def close(self) -> None:
        self.kill()
        self._port.close()


@pytest.fixture
def hub_process(tmp_path: Path) -> Iterator[HubProcess]:
    process = HubProcess(tmp_path / "hub")
    yield process
    process.close()


def run_worker(*words: str) -> int:
    script = str(Path(__file__).with_name("worker_process.py"))
    return subprocess.run([sys.executable, script, *words], check=False, timeout=60).returncode


class Acting:
    """Does something at the first report of an upload."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._is_done = threading.Event()
        self.uploaded: list[int] = []

    def emit(self, event: Any) -> None:
        self.uploaded.append(event.payload["bytes_uploaded"])
        is_begun = event.payload["chunks_uploaded"] and event.payload["stage"] == "stream_upload"
        if is_begun and not self._is_done.is_set():
            self._is_done.set()
            self._act()


@pytest.mark.usefixtures("every_report")
def test_an_upload_survives_its_hub(hub_process: HubProcess, make_files: MakeFiles) -> None:
    data = os.urandom(24 * PART)

    def restart() -> None:
        hub_process.kill()
        hub_process.start()

    acting = Acting(restart)
    files = make_files(told=acting, progress_interval_s=0.0, upload_backoff_s=0.05)
    files.enter("r", hub_process.scope)

    saved = run_blocking(files.save("jobs/r/outputs/x", data, SaveOptions(), request_id="r"))

    assert saved.blake3 == blake3(data).hexdigest()
    found = run_blocking(files.materialize(Asset(ref=saved.ref), FileLimits(), request_id="r"))
    assert found.read_bytes() == data
    assert acting.uploaded[-1] == len(data)


@pytest.mark.usefixtures("every_report")
def test_an_upload_survives_its_worker(hub_process: HubProcess, tmp_path: Path) -> None:
    """What a killed worker sent is not sent again by the next attempt of the job."""
    data = tmp_path / "data"
    data.write_bytes(os.urandom(24 * PART))
    scope = hub_process.scope
    first = [str(tmp_path / "first"), scope.base_url, scope.capability_token, str(data)]
    assert run_worker("save", *first) == -signal.SIGKILL

    acting = Acting(lambda: None)
    saved = _save(tmp_path / "second", hub_process.scope, data, acting)

    assert saved.blake3 == blake3(data.read_bytes()).hexdigest()
    assert acting.uploaded[0] >= PART  # known from the start


def _save(folder: Path, scope: JobScope, data: Path, told: Any) -> Any:
    files = WorkerFiles(FilePolicy(job_dir=str(folder), progress_interval_s=0.0), told)
    files.enter("r", scope)
    saving = files.save("jobs/r/outputs/x", data, SaveOptions(), request_id="r")
    try:
        return run_blocking(saving)
    finally:
        files.close()


def test_what_a_killed_worker_left_is_removed(web: WebServer, tmp_path: Path) -> None:
    jobs, url = tmp_path / "jobs", web.page("/a", b"a")
    policy = FilePolicy(job_dir=str(jobs), trusted_urls=(web.origin,))
    assert run_worker("take", str(jobs), url, web.origin) == -signal.SIGKILL
    (left,) = jobs.glob("worker-*")
    living = WorkerFiles(policy, Acting(lambda: None))
    kept = living.requests.enter("s", JobScope()).directory

    fresh = WorkerFiles(policy, Acting(lambda: None))
    fresh.requests.enter("r", JobScope()).directory  # noqa: B018  # makes it
    assert left.exists()  # it might be one that is just being made
    os.utime(left, (0, 0))
    os.utime(Path(kept).parent, (0, 0))
    newest = WorkerFiles(policy, Acting(lambda: None))
    newest.requests.enter("r", JobScope()).directory  # noqa: B018

    assert not left.exists()
    assert os.path.isdir(kept)
    for files in (living, fresh, newest):
        files.close()
    assert not list(jobs.glob("worker-*"))
