"""A platform of real processes that are killed, stopped and cut off, and who checks it."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pytest

from gen_worker.testing.cable import Cable
from gen_worker.testing.loop_thread import LoopThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
TIMEOUT_S = 120.0
_ENVIRONMENT = {
    "GEN_WORKER_SCHEDULER_LOST_AFTER_S": "0.5",
    "GEN_WORKER_SCHEDULER_RETRY_DELAY_S": "0.02",
    "GEN_WORKER_SCHEDULER_RETRY_MAX_DELAY_S": "0.2",
    "GEN_WORKER_SCHEDULER_MAX_LOST": "1000",
    "GEN_WORKER_SCHEDULER_CANCEL_GRACE_S": "0.5",
}
_CLOCK = """
import mmap, os, struct, time
with open(os.environ["CLOCK_OFFSET"], "r+b") as file:
    offset = mmap.mmap(file.fileno(), 8)
real = time.time
time.time = lambda: real() + struct.unpack("d", offset[:8])[0]
"""
_ENDED = ("succeeded", "failed", "canceled")


class Cli(Protocol):
    """The fixture of the folder above: runs `gen-worker` in a folder of the test's own."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: str, project: str | Path = ".", **environment: str) -> Any: ...


class Service:
    """A process that is started again with the same words, and killed at any moment."""

    def __init__(self, words: list[str], environment: dict[str, str], folder: Path, log: Path):
        self.words = words
        self.environment = environment
        self.folder = folder
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.words,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def line(self) -> str:
        """Return the next line that it prints."""
        line = self.line_or_end()
        assert line, self.log.read_text()
        return line

    def line_or_end(self) -> str:
        """Return the next line that it prints; empty once it has ended."""
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        assert self.process is not None
        return self.process.wait(TIMEOUT_S)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: int) -> None:
        if self.is_up:
            os.kill(self.pid, number)

    def fill_disk(self, *, is_full: bool) -> None:
        """Have none of its files grow any more, or grow again."""
        if self.is_up:
            _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
            soft = 1 if is_full else hard
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def kill(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def resident_bytes(self) -> int:
        """Return how much memory it has at this moment."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Site:
    """A scheduler, its workers and what lies between them, on one data folder."""

    def __init__(self, cli: Cli, stack: ExitStack) -> None:
        self.cli = cli
        self.data = cli.folder / "data"
        self.stack = stack
        self.workers: list[Service] = []
        self.services: list[Service] = []
        self._made = 0
        self._addresses = ["--http", "127.0.0.1:0", "--workers", "127.0.0.1:0"]
        self.own: dict[str, str] = {}
        """Variables of the scheduler, besides those of every site."""
        self.url = self.worker_address = self.reached = ""
        self.scheduler = self._scheduler()
        self._clock = cli.folder / "clock"
        self.jump(0.0)

    def jump(self, offset_s: float) -> None:
        """Set the clock of all processes of a site that `has_own_clock`."""
        with open(self._clock, "r+b" if self._clock.exists() else "wb") as file:
            file.write(struct.pack("d", offset_s))

    def has_own_clock(self) -> None:
        """Have all that is started after this believe in the clock that `jump` sets."""
        folder = self.cli.folder / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_CLOCK)
        self.cli.environment |= {"PYTHONPATH": str(folder), "CLOCK_OFFSET": str(self._clock)}

    def _scheduler(self) -> Service:
        words = [sys.executable, "-m", "gen_worker.cli", "scheduler", "serve"]
        words += ["--data", str(self.data), *self._addresses]
        environment = self.cli.environment | _ENVIRONMENT | self.own
        return self._service(words, environment, self.cli.folder, "scheduler")

    def _service(
        self, words: list[str], environment: dict[str, str], folder: Path, name: str
    ) -> Service:
        service = Service(words, environment, folder, self.cli.folder / f"{name}.log")
        self.services.append(service)
        self.stack.callback(service.kill)
        return service

    def add_service(self, words: list[str], name: str) -> Service:
        """Return one that is not started."""
        return self._service(words, self.cli.environment, self.cli.folder, name)

    def start(self) -> None:
        """Start the scheduler, at the addresses that it had before."""
        if not self.url:
            self.scheduler = self._scheduler()
        self.scheduler.start()
        announced = msgspec.json.decode(self.scheduler.line())
        self.url, self.worker_address = announced["url"], announced["workers"]
        self._addresses = ["--http", self.url.removeprefix("http://")]
        self._addresses += ["--workers", self.worker_address]
        self.scheduler.words[-4:] = self._addresses

    def rival(self, *before: str) -> Service:
        """Return one more scheduler of this folder, to be started by these words."""
        self._made += 1
        words = [*before, *self.scheduler.words[:-4], "--http", "127.0.0.1:0"]
        words += ["--workers", "127.0.0.1:0"]
        environment = self.scheduler.environment
        return self._service(words, environment, self.cli.folder, f"rival-{self._made}")

    def deploy(self, source: str) -> None:
        """Publish an endpoint of these functions."""
        project = self.cli.folder / "project"
        project.mkdir()
        (project / "endpoint.toml").write_text('schema_version = 1\nname = "jobs"\nmain = "app"\n')
        (project / "app.py").write_text(source)
        done = self.cli("deploy", "--data", str(self.data), project=project)
        assert done.code == 0, done.stderr

    def add_worker(self, **environment: str) -> Service:
        """Start one more worker, which reaches the scheduler as `reached` says."""
        ticket = self.ask("POST", "/v1/workers/tokens", {"endpoint": "jobs"})
        self._made += 1
        name = f"worker-{self._made}"
        settings = self.cli.environment | {
            "WORKER_JWT": ticket["token"],
            "PUBLIC_ORCHESTRATOR_GRPC_ADDR": self.reached or ticket["address"],
            "GEN_WORKER_LOCK": ticket["lock"],
            "SCHEDULER_JWKS_URL": f"{self.url}/.well-known/jwks.json",
            "TENSORHUB_CACHE_DIR": str(self.cli.folder / "cache"),
            "WORKER_JOB_DIR": str(self.cli.folder / name),
            **environment,
        }
        words = [sys.executable, "-m", "gen_worker.entrypoint"]
        worker = self._service(words, settings, Path(ticket["source"]), name)
        worker.start()
        self.workers.append(worker)
        return worker

    def lose_worker(self, worker: Service) -> None:
        worker.kill()
        self.workers.remove(worker)

    def client(self, url: str, record: Path, seed: int, first: int, count: int) -> Service:
        """Start a process that makes requests, and keeps what it is told of them in a file."""
        words = [sys.executable, str(HERE / "client_process.py"), url, str(record)]
        words += [str(seed), str(first), str(count)]
        client = self._service(words, self.cli.environment, self.cli.folder, record.stem)
        client.start()
        return client

    def audit(self, *records: Path) -> dict[str, Any]:
        """Have another process compare what clients were told with the scheduler's database."""
        words = [sys.executable, str(HERE / "audit_process.py"), str(self.data)]
        done = subprocess.run(
            [*words, *map(str, records)], capture_output=True, text=True, env=self.cli.environment
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        found: dict[str, Any] = msgspec.json.decode(done.stdout)
        return found

    def logs(self) -> str:
        """Return the end of what each process has said."""
        texts = {one.log: one.log.read_text()[-3000:] for one in self.services if one.log.exists()}
        return "".join(f"\n== {log.name}\n{text}" for log, text in texts.items())

    def cable(self, target: str) -> tuple[Cable, LoopThread]:
        """Lay a network in front of an address."""
        loop = LoopThread("cable")
        self.stack.callback(loop.close)
        cable = Cable(target)
        loop.wait(cable.__aenter__())
        self.stack.callback(lambda: loop.wait(cable.__aexit__(None, None, None)))
        return cable, loop

    # -- questions ---------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return msgspec.json.decode(answer.read())

    def refusal(self, function: str, payload: Any, key: str = "") -> tuple[int, str, Any]:
        """Return how a request is refused, after how long to come again, and what is said."""
        try:
            self.submit(function, payload, key)
        except urllib.error.HTTPError as error:
            with error:
                told = msgspec.json.decode(error.read())
                return error.code, error.headers.get("Retry-After", ""), told
        raise AssertionError("it is accepted")

    def submit(self, function: str, payload: Any, key: str = "") -> str:
        headers = {"Idempotency-Key": key} if key else {}
        body = {"function": function, "payload": payload}
        return str(self.ask("POST", "/v1/requests", body, **headers)["request_id"])

    def ended(self, request_id: str) -> Any:
        """Wait until a request has ended, and return it."""

        def look() -> Any:
            answer = self.ask("GET", f"/v1/requests/{request_id}")
            return answer if answer["status"] in _ENDED else None

        return until(look)

    def drained(self) -> None:
        """Wait until nothing waits or runs."""

        def look() -> bool:
            said = self.ask("GET", "/v1/status")["scheduler"]
            return bool(said["unfinished"] == 0)

        until(look)


def until(look: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
    """Return what `look` finds in the end; while nobody answers it finds nothing."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            found = look()
        except urllib.error.HTTPError as error:
            error.close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        else:
            if found:
                return found
        time.sleep(0.02)
    raise AssertionError("it did not come to that")


@pytest.fixture
def site(cli: Cli) -> Iterator[Site]:
    with ExitStack() as stack:
        made = Site(cli, stack)
        yield made
        for service in made.services:
            service.send(signal.SIGCONT)
