"""`gen-worker scheduler`: one by itself, its workers and tokens, and what dies with -9."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Set

    from conftest import Cli

EXAMPLE = Path(__file__).parents[3] / "examples" / "marco-polo"
TIMEOUT_S = 60.0
APP = """
import os
import time
import msgspec
from gen_worker import Asset, RequestContext, inference_function

class In(msgspec.Struct):
    folder: str
    word: str = ""

class Out(msgspec.Struct):
    word: str
    pid: int

@inference_function
def gate(ctx: RequestContext, payload: In) -> Out:
    open(os.path.join(payload.folder, f"began-{os.getpid()}"), "w").close()
    while not os.path.exists(os.path.join(payload.folder, "open")):
        ctx.raise_if_canceled()
        time.sleep(0.01)
    return Out(payload.word, os.getpid())

class Copy(msgspec.Struct):
    source: Asset

class Copied(msgspec.Struct):
    copy: Asset

@inference_function
def shout(ctx: RequestContext, payload: Copy) -> Copied:
    with open(payload.source.local_path) as file:
        text = file.read()
    return Copied(ctx.save_bytes("shouted.txt", text.upper().encode()))
"""
TOML = 'schema_version = 1\nname = "gates"\nmain = "app"\n'


class Scheduler:
    """A scheduler of a folder, which is started again at the same addresses."""

    def __init__(self, cli: Cli, data: Path) -> None:
        self.cli = cli
        self.data = data
        self.environment = {
            "GEN_WORKER_SCHEDULER_LOST_AFTER_S": "0.5",
            "GEN_WORKER_SCHEDULER_RETRY_DELAY_S": "0.05",
        }
        self._words = ["--http", "127.0.0.1:0", "--workers", "127.0.0.1:0"]
        self.announced: dict[str, Any] = {}

    def start(self, *words: str) -> Scheduler:
        words = ("scheduler", "serve", "--data", str(self.data), *self._words, *words)
        self.process = self.cli.start(*words, **self.environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.announced = msgspec.json.decode(line)
        http = self.announced["url"].removeprefix("http://")
        self._words = ["--http", http, "--workers", self.announced["workers"]]
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_S)

    def stop(self) -> str:
        """Ask it to stop; return what it has said."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=TIMEOUT_S)[1]
        assert self.process.returncode == 0, said
        return said

    def ask(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        request = urllib.request.Request(self.announced["url"] + path, data, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            content = answer.read()
            is_json = answer.headers["content-type"] == "application/json"
            return msgspec.json.decode(content) if is_json else content

    def submit(self, function: str, payload: Any) -> str:
        body = {"function": function, "payload": payload}
        request_id: str = self.ask("POST", "/v1/requests", body)["request_id"]
        return request_id

    def answer(self, request_id: str) -> Any:
        """Wait until a request has ended."""
        return until(lambda: ended(self.ask("GET", f"/v1/requests/{request_id}")))

    def deploy(self, project: Path) -> None:
        done = self.cli("deploy", "--data", str(self.data), project=project)
        assert done.code == 0, done.stderr

    def worker(self, endpoint: str) -> subprocess.Popen[bytes]:
        """Start one in a process of its own."""
        ticket = self.ask("POST", "/v1/workers/tokens", {"endpoint": endpoint})
        environment = self.cli.environment | {
            "WORKER_JWT": ticket["token"],
            "PUBLIC_ORCHESTRATOR_GRPC_ADDR": ticket["address"],
            "GEN_WORKER_LOCK": ticket["lock"],
            "SCHEDULER_JWKS_URL": f"{self.announced['url']}/.well-known/jwks.json",
            "TENSORHUB_CACHE_DIR": str(self.cli.folder / "cache"),
            "WORKER_JOB_DIR": str(self.cli.folder / "job"),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "gen_worker.entrypoint"], cwd=ticket["source"], env=environment
        )


def ended(answer: Any) -> Any:
    return answer if answer["status"] in ("succeeded", "failed", "canceled") else None


def until(look: Callable[[], Any]) -> Any:
    """Return what `look` finds in the end; while nobody answers it finds nothing."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            found = look()
            if found:
                return found
        time.sleep(0.02)
    raise AssertionError("it did not come to that")


@pytest.fixture
def scheduler(cli: Cli) -> Scheduler:
    return Scheduler(cli, cli.folder / "data").start()


@pytest.fixture
def start_worker(scheduler: Scheduler) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started = []

    def start(endpoint: str) -> subprocess.Popen[bytes]:
        started.append(scheduler.worker(endpoint))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(TIMEOUT_S)


@pytest.fixture
def gates(cli: Cli, scheduler: Scheduler) -> Path:
    """Deploy functions that wait for a file; return the folder of their files."""
    project = cli.folder / "project"
    project.mkdir()
    (project / "endpoint.toml").write_text(TOML)
    (project / "app.py").write_text(APP)
    scheduler.deploy(project)
    folder = cli.folder / "gates"
    folder.mkdir()
    return folder


def began(folder: Path, *, besides: Set[str] = frozenset()) -> str:
    """Wait until the function runs in some process; return its mark."""
    return str(until(lambda: next(iter(set(os.listdir(folder)) - besides - {"open"}), "")))


@pytest.mark.claims("scheduler.serve")
def test_a_released_endpoint_answers(
    cli: Cli, scheduler: Scheduler, start_worker: Callable[[str], object]
) -> None:
    project = cli.folder / "marco-polo"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("__pycache__"))
    scheduler.deploy(project)
    waiting = scheduler.submit("marco-polo", {"text": "marco"})
    start_worker("marco-polo")
    assert scheduler.answer(waiting)["output"] == {"response": "polo"}
    answer = scheduler.ask("POST", "/v1/request/marco-polo", {"text": "marco"})
    assert answer["output"] == {"response": "polo"}
    (worker,) = scheduler.ask("GET", "/v1/workers")["workers"]
    assert (worker["state"], worker["functions"]) == ("ready", ["marco-polo"])
    metrics = scheduler.ask("GET", "/metrics").decode()
    named = '{endpoint="marco-polo",function="marco-polo",outcome="succeeded"}'
    assert f"gen_worker_scheduler_requests_total{named} 2.0" in metrics


@pytest.mark.claims("scheduler.killed")
def test_a_killed_scheduler_goes_on_with_what_waits_and_what_runs(
    scheduler: Scheduler, gates: Path, start_worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    waiting = scheduler.submit("gate", {"folder": str(gates), "word": "one"})
    scheduler.kill()
    scheduler.start()
    worker = start_worker("gates")
    mark = began(gates)
    scheduler.kill()
    scheduler.start()
    (gates / "open").touch()
    answer = scheduler.answer(waiting)
    assert answer["output"] == {"word": "one", "pid": worker.pid}
    assert answer["attempt"] == 1, "the worker went on with it"
    assert [one for one in os.listdir(gates) if one != "open"] == [mark], "it ran once"


def test_what_a_killed_worker_had_is_given_to_another(
    scheduler: Scheduler, gates: Path, start_worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    first = start_worker("gates")
    request = scheduler.submit("gate", {"folder": str(gates), "word": "two"})
    mark = began(gates)
    first.kill()
    second = start_worker("gates")
    began(gates, besides={mark})
    (gates / "open").touch()
    answer = scheduler.answer(request)
    assert (answer["output"]["pid"], answer["attempt"]) == (second.pid, 2)


@pytest.mark.claims("scheduler.killed")
def test_files_come_from_callers_and_go_back_to_them(
    scheduler: Scheduler, gates: Path, start_worker: Callable[[str], object]
) -> None:
    start_worker("gates")
    upload = scheduler.ask("POST", "/v1/files?name=quiet.txt", b"hello")
    request = scheduler.submit("shout", {"source": {"ref": upload["ref"]}})
    answer = scheduler.answer(request)
    assert answer["status"] == "succeeded", answer
    copy = answer["output"]["copy"]["ref"]
    assert copy == f"jobs/{request}/outputs/shouted.txt"
    scheduler.kill()
    scheduler.start()
    assert scheduler.ask("GET", f"/v1/files/{copy}") == b"HELLO"


@pytest.mark.claims("scheduler.serve", "scheduler.presence", "scheduler.stop", "scheduler.alone")
def test_it_stops_cleanly_says_where_it_is_and_has_its_folder_alone(
    cli: Cli, scheduler: Scheduler
) -> None:
    presence = scheduler.data / "scheduler.json"
    said = msgspec.json.decode(presence.read_bytes())
    assert said["pid"] == scheduler.process.pid
    assert presence.stat().st_mode & 0o777 == 0o600
    assert said["http"] == scheduler.announced["url"]
    assert said["workers"] == scheduler.announced["workers"]

    second = cli("scheduler", "serve", "--data", str(scheduler.data), "--http", "127.0.0.1:0")
    assert second.code == 1
    assert f"process {scheduler.process.pid} has" in second.stderr
    assert scheduler.ask("GET", "/readyz")["ready"]

    assert scheduler.stop().endswith("gen-worker scheduler: stopped\n")
    assert not presence.exists()

    scheduler.start()
    scheduler.kill()
    assert presence.exists(), "it could not remove it"
    assert cli("scheduler", "tokens", "ls", "--data", str(scheduler.data)).code == 0
    scheduler.start()
    assert msgspec.json.decode(presence.read_bytes())["pid"] == scheduler.process.pid


@pytest.mark.claims("scheduler.tokens")
def test_tokens_are_managed_whether_it_runs_or_not(cli: Cli, scheduler: Scheduler) -> None:
    scheduler.stop()
    scheduler.environment["GEN_WORKER_SCHEDULER_REQUIRES_TOKENS"] = "always"
    words = ("--data", str(scheduler.data), "--name", "robot", "--owner", "ann")
    (made,) = cli("scheduler", "tokens", "add", "read", *words).values
    assert isinstance(made, dict)
    assert (made["scopes"], made["owner"], made["name"]) == (["read"], "ann", "robot")

    scheduler.start()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        scheduler.ask("GET", "/v1/functions")
    assert scheduler.ask("GET", "/v1/functions", token=made["token"]) == {"functions": []}
    root = Path(scheduler.announced["token_file"])
    assert root.stat().st_mode & 0o777 == 0o600
    (listed,) = cli("scheduler", "tokens", "ls", "--data", str(scheduler.data)).values
    assert isinstance(listed, dict)
    assert [row["token_id"] for row in listed["tokens"]] == [made["token_id"]]
    assert made["token"] not in str(listed)

    gone = cli("scheduler", "tokens", "rm", made["token_id"], "--data", str(scheduler.data))
    assert gone.code == 0, gone.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        scheduler.ask("GET", "/v1/functions", token=made["token"])
    again = cli("scheduler", "tokens", "rm", made["token_id"], "--data", str(scheduler.data))
    assert again.code != 0


@pytest.mark.claims("scheduler.words")
@pytest.mark.parametrize(
    "words",
    [
        ("serve", "extra"),
        ("tokens",),
        ("tokens", "rm"),
        ("tokens", "ls", "more"),
        ("tokens", "add", "nothing-like-this"),
        ("serve", "--http", "nowhere"),
        ("serve", "--http", "127.0.0.1:0", "--workers", "127.0.0.1:99999"),
    ],
)
def test_what_makes_no_sense_is_told(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli("scheduler", *words, "--data", str(cli.folder / "data"))
    assert done.code == 2
    assert done.stderr.startswith("gen-worker scheduler: ")
    assert "Traceback" not in done.stderr
