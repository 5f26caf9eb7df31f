"""A run publishes once or not at all, whatever its hub and its callbacks do meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.models.fetch import RetryLimits
from gen_worker.models.hub import HubClient
from gen_worker.models.hub.clock import Clock
from gen_worker.models.hub.connection import HubConnection
from gen_worker.runtime.http import HttpServer, open_listener
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.settings import CoreSettings
from gen_worker.testing.loop_thread import LoopThread
from gen_worker.trainer.checkpoints import CheckpointStore
from gen_worker.trainer.mode import run
from gen_worker.trainer.uploads.callbacks import Callbacks
from gen_worker.trainer.uploads.publication import HubUploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Peer, RunningHub

PATIENCE_S = 120.0
QUICK = RetryLimits(factor_s=0.001, cap_s=0.001, max_tries=4, max_elapsed_s=600.0)
STEPS = {
    "open": ("POST", r"/revisions$"),
    "create": ("POST", r"/uploads$"),
    "send": ("PUT", r"."),
    "complete": ("POST", r"/complete$"),
    "finalize": ("POST", r"/finalize$"),
}


class Front:
    """A hub behind something that fails: real answers otherwise. An ASGI app."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.sent: list[str] = []
        """Digests of the bytes that were taken in, in order."""
        self.changed = threading.Condition()
        self.hold: Callable[[str, str], bool] = lambda method, path: False
        self.held = threading.Event()
        self.fails: Callable[[str, str], int] = lambda method, path: 0
        """Returns the status of an answer that is not the hub's."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        if self.hold(method, path):
            self.held.set()
            await asyncio.sleep(3600)
        status = self.fails(method, path)
        if status:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        digest = sha256()

        async def heard() -> Any:
            message = await receive()
            digest.update(message.get("body", b""))
            return message

        await self._app(scope, heard, send)
        if method == "PUT":
            with self.changed:
                self.sent.append(digest.hexdigest())
                self.changed.notify_all()


class Fronted:
    def __init__(self, hub: RunningHub) -> None:
        self.hub = hub
        self.front = Front(hub.local.app)
        self._listener = open_listener(TcpAddress("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = HttpServer(self.front, self._listener, grace_s=0.1)
        self._loop = LoopThread("front")
        self._serving = self._loop.wait(self._serve())

    async def _serve(self) -> asyncio.Task[None]:
        is_ready = asyncio.Event()
        task = asyncio.create_task(self._server.serve(is_ready.set))
        await is_ready.wait()
        return task

    def close(self) -> None:
        async def stop() -> None:
            self._server.stop()
            await self._serving

        self._loop.wait(stop())
        self._loop.close()

    def tags(self) -> set[str]:
        with self.hub.client() as client:
            found = client.repos("acme")
        return {tag["tag"] for repo in found for tag in repo["tags"]}


@pytest.fixture
def fronted(hub: RunningHub) -> Iterator[Fronted]:
    fronted = Fronted(hub)
    yield fronted
    fronted.close()


class Job:
    """A run in this process, or in one of its own, that publishes."""

    def __init__(self, folder: Path, fronted: Fronted, peer: Peer, setenv: Any) -> None:
        self.folder, self.out, self.fronted, self.peer = folder, folder / "out", fronted, peer
        own = Path(__file__).parents[1] / "bad_trainer.py"
        shutil.copyfile(own, folder / "bad_trainer.py")
        self.token = fronted.hub.local.issue_capability(
            publish=["acme/tuned"], create=("acme", ["tuned"])
        )
        setenv("TRAINER_JOB_SPEC_PATH", str(folder / "job.json"))
        setenv("TRAINER_ARTIFACTS_DIR", str(self.out))
        setenv("TENSORHUB_URL", fronted.url)
        setenv("TRAINER_CAPABILITY_TOKEN", self.token)

    def write(self, **fields: Any) -> None:
        spec = {
            "request_id": "run-7",
            "trainer": "bad_trainer:Failing",
            "owner": "acme",
            "max_steps": 4,
            "metric_every": 1,
            "checkpoint_every": 1,
            "mock_batches": list(range(9)),
            "hyperparams": {"bytes": 70_000},
            "resume_from_latest": True,
            "execution_hints": {"destination_repo": "acme/tuned", "job_id": "j1"},
            "destination": {"tags": ["best"]},
            "uploads": {"terminal_url": f"{self.peer.url}/terminal"},
            **fields,
        }
        (self.folder / "job.json").write_text(json.dumps(spec))

    def run(self, **fields: Any) -> int:
        self.write(**fields)
        return run(CoreSettings())

    def start(self, **fields: Any) -> subprocess.Popen[bytes]:
        self.write(**fields)
        return subprocess.Popen(
            [sys.executable, "-m", "gen_worker.entrypoint"],
            cwd=self.folder,
            env={**os.environ, "WORKER_MODE": "trainer"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def last(self) -> dict[str, Any]:
        lines = (self.out / "metrics" / "events.jsonl").read_text().splitlines()
        ends = [line for line in map(json.loads, lines) if line["event"] in ("failed", "completed")]
        assert json.loads(lines[-1]) == ends[-1]
        found: dict[str, Any] = ends[-1]
        return found

    def ends(self) -> list[tuple[str, str]]:
        """Return how the callback was told that the run has ended."""
        return [(one.told["status"], one.told["error"]) for one in self.peer.at("/terminal")]

    def newest(self) -> int:
        with CheckpointStore(str(self.out / "checkpoints"), warn=pytest.fail) as store:
            newest = store.newest()
        return 0 if newest is None else newest.checkpoint.step


@pytest.fixture
def job(tmp_path: Path, fronted: Fronted, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Have one whose waits are short."""
    slept = [0.0]

    def sleep(seconds: float, token: Any) -> None:
        slept[0] += seconds
        if token is not None:
            token.raise_if_canceled()

    clock = Clock(now=lambda: time.monotonic() + slept[0], sleep=sleep)
    for cls, name, value in (
        (HubUploads, "tries", QUICK),
        (Callbacks, "tries", QUICK),
        (HubClient, "clock", clock),
        (HubConnection, "clock", clock),
    ):
        defaults: Any = cls.__init__.__kwdefaults__
        monkeypatch.setitem(defaults, name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bad_trainer", raising=False)
    return Job(tmp_path, fronted, peer, monkeypatch.setenv)


def failing(step: str, status: int, times: int) -> Callable[[str, str], int]:
    """Have the first so many requests of a step answered with a status; 0 times is each."""
    method, pattern = STEPS[step]
    left = [times]

    def fails(asked: str, path: str) -> int:
        if asked != method or not re.search(pattern, path):
            return 0
        left[0] -= 1
        return status if times == 0 or left[0] >= 0 else 0

    return fails


def test_a_run_publishes_each_byte_once(job: Job, fronted: Fronted, tmp_path: Path) -> None:
    assert job.run() == 0
    assert fronted.tags() == {"best", "latest"}
    assert len(fronted.front.sent) == len(set(fronted.front.sent))
    files = fronted.hub.files("acme/tuned:best", tmp_path / "pulled")
    assert json.loads(files["seen.json"]) == [0, 1, 2, 3]
    assert job.ends() == [("completed", "")]


@pytest.mark.parametrize("step", STEPS)
def test_a_hub_that_fails_for_a_while_is_waited_for(job: Job, fronted: Fronted, step: str) -> None:
    fronted.front.fails = failing(step, 503, 2)
    assert job.run() == 0
    assert fronted.tags() == {"best", "latest"}
    assert len(fronted.front.sent) == len(set(fronted.front.sent))
    assert job.ends() == [("completed", "")]


@pytest.mark.parametrize("step", STEPS)
def test_a_hub_that_keeps_failing_fails_the_run_and_nothing_is_published(
    job: Job, fronted: Fronted, step: str
) -> None:
    fronted.front.fails = failing(step, 500, 0)
    assert job.run() == 1
    assert job.last()["event"] == "failed"
    assert job.last()["error"].startswith("upload:")
    assert fronted.tags() == set()
    assert job.ends() == [("failed", "upload:failed to upload training artifacts")]

    kept = job.newest()
    assert kept >= 1
    fronted.front.fails = lambda method, path: 0
    assert job.run(max_steps=5) == 0, "what was learned is published by the next attempt"
    assert fronted.tags() == {"best", "latest"}
    assert job.ends()[1:] == [("completed", "")]


@pytest.mark.parametrize("step", [step for step in STEPS if step != "send"])
def test_a_token_that_expires_is_an_auth_error(job: Job, fronted: Fronted, step: str) -> None:
    fronted.front.fails = failing(step, 401, 0)
    assert job.run() == 1
    assert job.last()["error"] == "auth:authorization failed"
    assert job.ends() == [("failed", "auth:authorization failed")]
    assert fronted.tags() == set()
    assert job.newest() >= 1


def test_a_token_that_has_expired_before_the_run(job: Job, fronted: Fronted) -> None:
    fronted.hub.now_s += 10 * 86_400
    assert job.run() == 1
    assert job.last()["error"] == "auth:authorization failed"
    assert job.ends() == [("failed", "auth:authorization failed")]


def test_a_hub_that_is_not_there(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = open_listener(TcpAddress("127.0.0.1", 0))
    monkeypatch.setenv("TENSORHUB_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
    listener.close()
    assert job.run() == 1
    assert job.last()["error"].startswith("upload:")
    assert job.ends() == [("failed", "upload:failed to upload training artifacts")]
    assert job.newest() >= 1


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"trainer": "no_such:Tuner"}, "model-load:failed to initialize trainer model/backend"),
        (
            {"inputs": {"dataset_parquet_refs": ["file:///nowhere.parquet"]}},
            "input:failed to materialize training inputs",
        ),
        ({"max_steps": -1}, "startup:max_steps must not be negative, it is -1"),
    ],
)
def test_a_run_that_does_not_begin_is_told_of(job: Job, fields: dict[str, Any], error: str) -> None:
    assert job.run(**fields) == 1
    assert job.ends() == [("failed", error)]


def test_a_run_that_fails_publishes_nothing(job: Job, fronted: Fronted) -> None:
    assert job.run(hyperparams={"fails": "train_step", "nth": 3}) == 1
    assert fronted.tags() == set()
    assert job.ends() == [("failed", "train-step:train_step is broken")]


@pytest.mark.parametrize("kind", ["metrics", "checkpoint", "sample", "terminal"])
def test_a_callback_server_that_answers_503_twice(job: Job, peer: Peer, kind: str) -> None:
    peer.plans[f"/{kind}"].extend([503, 503])
    kinds = ("metrics", "checkpoint", "sample", "terminal")
    uploads = {f"{name}_url": f"{peer.url}/{name}" for name in kinds}
    assert job.run(uploads=uploads, sample_every=2, sample_prompts=["a"]) == 0
    assert job.last()["event"] == "completed"
    told = [one.told["status"] for one in peer.at("/terminal")]
    assert told == ["completed"] * (3 if kind == "terminal" else 1)
    keys = {one.headers["idempotency-key"] for one in peer.at("/terminal")}
    assert len(keys) == 1, "whoever has taken one in knows the others"


@pytest.mark.parametrize(("kind", "code"), [("metrics", 0), ("sample", 0), ("checkpoint", 1)])
def test_what_a_callback_that_is_never_taken_in_costs(
    job: Job, peer: Peer, kind: str, code: int
) -> None:
    peer.plans[f"/{kind}"].extend([500] * 1000)
    kinds = ("metrics", "checkpoint", "sample", "terminal")
    uploads = {f"{name}_url": f"{peer.url}/{name}" for name in kinds}
    assert job.run(uploads=uploads, sample_every=2, sample_prompts=["a"]) == code
    status = "failed" if code else "completed"
    assert [one.told["status"] for one in peer.at("/terminal")] == [status]
    assert job.last()["event"] == status


def test_a_terminal_callback_that_is_never_taken_in_fails_the_run(job: Job, peer: Peer) -> None:
    peer.plans["/terminal"].extend([500] * 1000)
    assert job.run() == 1
    assert job.last()["error"].startswith("upload:")
    assert job.newest() == 4


@pytest.mark.one_python
@pytest.mark.parametrize("at", [3, 5, 8])
def test_a_run_that_is_killed_while_it_sends_sends_nothing_twice(
    job: Job, fronted: Fronted, tmp_path: Path, at: int
) -> None:
    """The process is killed while the hub has so many files, and the next is on its way."""
    front = fronted.front
    front.hold = lambda method, path: method == "PUT" and len(front.sent) >= at
    process = job.start()
    assert front.held.wait(PATIENCE_S)
    process.kill()
    process.wait()
    front.hold = lambda method, path: False
    before = list(front.sent)
    assert job.ends() == []

    again = job.start()
    assert again.wait(PATIENCE_S) == 0
    twice = [digest for digest in front.sent[len(before) :] if digest in before]
    assert twice == []
    earlier = fronted.hub.files("acme/tuned:best#step-00000001", tmp_path / "earlier")
    assert json.loads(earlier["seen.json"]) == [0]
    assert job.run() == 0
    assert len(job.ends()) == 1, "what is told is told once"
    assert fronted.tags() == {"best", "latest"}
    files = fronted.hub.files("acme/tuned:best", tmp_path / "pulled")
    assert json.loads(files["seen.json"]) == [0, 1, 2, 3]
    assert job.ends() == [("completed", "")]
