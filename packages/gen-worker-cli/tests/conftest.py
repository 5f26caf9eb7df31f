"""Runs the real command in processes of its own, on projects below `projects/` or written here."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECTS = Path(__file__).parent / "projects"
TIMEOUT_S = 60
T = TypeVar("T")
_ENDPOINT = 'schema_version = 1\nmain = "app"\n'


class Finished(NamedTuple):
    """What a command left behind."""

    stdout: str
    stderr: str
    code: int

    @property
    def values(self) -> list[object]:
        """Everything on stdout, one JSON value per line."""
        return [msgspec.json.decode(line) for line in self.stdout.splitlines()]

    @property
    def reports(self) -> list[dict[str, object]]:
        """The JSON lines on stderr."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("{")]
        return [msgspec.json.decode(line, type=dict[str, object]) for line in lines]


class Cli:
    """Starts `gen-worker` in a folder, with no setting of this machine in its environment."""

    def __init__(self, folder: Path, bytecode: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPYCACHEPREFIX": str(bytecode),
            "PYTHONWARNINGS": "error",
        }
        self._started: list[subprocess.Popen[str]] = []

    def __call__(
        self, *words: str, project: str | Path = ".", stdin: str = "", **environment: str
    ) -> Finished:
        """Run one command to its end."""
        process = self.start(*words, project=project, **environment)
        stdout, stderr = process.communicate(stdin, timeout=TIMEOUT_S)
        return Finished(stdout, stderr, process.returncode)

    def start(
        self, *words: str, project: str | Path = ".", **environment: str
    ) -> subprocess.Popen[str]:
        """Start one command; it is ended with the test at the latest.

        A project is named as it is below `projects/`, given as a path, or is the test's own folder.
        """
        command = [sys.executable, "-m", "gen_worker.cli", *words]
        if isinstance(project, str) and project != ".":
            command[4:4] = ["--config", str(self.config_of(project))]
        process = subprocess.Popen(
            command,
            cwd=project if isinstance(project, Path) else self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    @staticmethod
    def config_of(project: str) -> Path:
        return PROJECTS / project / "endpoint.toml"

    def write_project(self, source: str, **files: str) -> Path:
        """Make the test's folder a project whose only module is `source`."""
        (self.folder / "endpoint.toml").write_text(_ENDPOINT)
        (self.folder / "app.py").write_text(source)
        for name, text in files.items():
            (self.folder / name).write_text(text)
        return self.folder

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


class Hub:
    """A `gen-worker hub serve` that is ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.transcript = ""
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            self.transcript += line
            if line == "gen-worker hub: ready\n":
                break
        else:
            raise AssertionError(self.transcript)
        self.announced: dict[str, Any] = msgspec.json.decode(process.stdout.readline())
        self.url = str(self.announced["url"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        self.transcript += self.process.communicate(timeout=TIMEOUT_S)[1]
        return self.process.returncode


class Server:
    """A `gen-worker serve` that is ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.transcript = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def expect(self, text: str) -> str:
        """Return the next line on stderr that has `text`."""
        assert self.process.stderr is not None
        guard = threading.Timer(TIMEOUT_S, self.process.kill)
        guard.start()
        try:
            for line in self.process.stderr:
                self.transcript += line
                if text in line:
                    return line
        finally:
            guard.cancel()
        raise AssertionError(f"{text!r} is not in {self.transcript!r}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; what was said last is in the transcript."""
        self.process.send_signal(number)
        self.transcript += self.process.communicate(timeout=TIMEOUT_S)[1]
        return self.process.returncode


class Terminal:
    """Runs one command at a terminal of its own; stdout may be a pipe all the same."""

    def __init__(self, folder: Path, bytecode: Path) -> None:
        self.folder = folder
        self._bytecode = str(bytecode)
        self.text = ""
        self.stdout = ""
        self._seen = 0
        self._process: subprocess.Popen[str] | None = None
        self._screen = -1

    def start(
        self,
        *words: str,
        project: str = "",
        piped_stdout: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._screen, other = pty.openpty()
        config = ["--config", str(PROJECTS / project / "endpoint.toml")] if project else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gen_worker.cli", *words, *config],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "TERM": "xterm-256color",
                "PYTHONPYCACHEPREFIX": self._bytecode,
                **(environment or {}),
            },
            stdin=other,
            stdout=subprocess.PIPE if piped_stdout else other,
            stderr=other,
            text=True,
            start_new_session=True,
        )
        os.close(other)

    @property
    def plain_text(self) -> str:
        """Everything shown so far, without the escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text)

    def send(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def expect(self, text: str) -> None:
        """Wait until `text` is shown behind what was expected before."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.plain_text[self._seen :]:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.plain_text!r}"
            assert self._read(), f"the command ended, {text!r} is not in {self.plain_text!r}"
        self._seen = self.plain_text.index(text, self._seen) + len(text)

    def wait(self) -> int:
        """Read to the end and return the exit code."""
        assert self._process is not None
        while self._read():
            pass
        if self._process.stdout is not None:
            self.stdout = self._process.stdout.read()
        return self._process.wait(TIMEOUT_S)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            os.close(self._screen)

    def _read(self) -> bool:
        if not select.select([self._screen], [], [], TIMEOUT_S)[0]:
            return False
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # the other end was closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes of this session keep what they compiled, so that each is quick."""
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def terminal(tmp_path: Path, bytecode: Path) -> Iterator[Terminal]:
    screen = Terminal(tmp_path, bytecode)
    yield screen
    screen.close()


@pytest.fixture
def cli(tmp_path: Path, bytecode: Path) -> Iterator[Cli]:
    runner = Cli(tmp_path, bytecode)
    yield runner
    runner.close()


@pytest.fixture
def start_hub(cli: Cli) -> Callable[..., Hub]:
    """Start hubs from the folder `hub`, ready."""

    def begin(*words: str, **environment: str) -> Hub:
        words = ("hub", "serve", "--dir", "hub", "--port", "0", *words)
        return Hub(cli.start(*words, **environment))

    return begin


@pytest.fixture
def shelve(cli: Cli) -> Callable[..., tuple[str, str]]:
    """Put a model into the folder `cas`; return its digest and the directory of its files."""

    def put(**files: str) -> tuple[str, str]:
        from gen_worker.models.snapshot import SnapshotFile, snapshot_of
        from gen_worker.models.store import ContentStore

        store, source = ContentStore(str(cli.folder / "cas")), cli.folder / "source"
        listed = []
        for name, text in files.items():
            source.write_text(text)
            digest, size = store.add_file(str(source))
            listed.append(SnapshotFile(path=name, size_bytes=size, blake3=digest))
        snapshot = snapshot_of(listed)
        return snapshot.digest, store.build(snapshot)

    return put


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, bytecode: Path) -> Iterator[Cli]:
    """Return a folder with a server of the project of every shape, for all tests of a module."""
    runner = Cli(tmp_path_factory.mktemp("warm"), bytecode)
    Server(runner.start("serve", "--no-stdin", project="shapes")).expect("serve: ready")
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def beside_hub(
    tmp_path_factory: pytest.TempPathFactory, bytecode: Path
) -> Iterator[tuple[Cli, Hub]]:
    """Return a folder and a hub that asks for the token `right`, for all tests of a module."""
    runner = Cli(tmp_path_factory.mktemp("beside-hub"), bytecode)
    words = ("hub", "serve", "--dir", "hub", "--port", "0")
    yield runner, Hub(runner.start(*words, TENSORHUB_TOKEN="right"))
    runner.close()


@pytest.fixture
def serve(cli: Cli) -> Callable[..., Server]:
    """Start a server that reads no stdin, and wait until it is ready, or says something else."""

    def start(
        *words: str, project: str | Path = "shapes", until: str = "ready", **environment: str
    ) -> Server:
        server = Server(cli.start("serve", "--no-stdin", *words, project=project, **environment))
        server.expect(f"gen-worker serve: {until}")
        return server

    return start


class Busy(Protocol):
    """Starts a server, and a request that lasts much longer than the server's idle time."""

    def __call__(self, begin: Callable[[int], T], *words: str) -> tuple[Server, T, float]: ...


@pytest.fixture
def busy(serve: Callable[..., Server]) -> Busy:
    def start(begin: Callable[[int], T], *words: str) -> tuple[Server, T, float]:
        """Begin a request of `deaf` with this limit; the last that is returned is the idle time.

        A busy machine may bring the request too late for a short limit.
        """
        for limit_s in (0.3, 2.0, 10.0):
            server = serve(*words, "--idle-timeout", str(limit_s))
            try:
                begun = begin(round(40 * limit_s))
                server.expect("started")
            except (OSError, AssertionError):  # no request for too long
                assert server.process.wait(TIMEOUT_S) == 0
            else:
                return server, begun, limit_s
        raise AssertionError("no request came in time")

    return start


@pytest.fixture
def shapes(cli: Cli) -> Callable[..., Finished]:
    """Run a command on the project that has a function of every shape."""

    def run(*words: str, stdin: str = "", **environment: str) -> Finished:
        return cli(*words, project="shapes", stdin=stdin, **environment)

    return run
