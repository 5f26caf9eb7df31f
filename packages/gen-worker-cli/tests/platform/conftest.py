"""A project, and platforms for it, as real processes."""

from __future__ import annotations

import signal
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
import pytest

from gen_worker.cli.platform.identity import started_at

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

TIMEOUT_S = 60.0
_TOML = 'schema_version = 1\nname = "shout"\nmain = "app"\n'
_APP = """
import time
import msgspec
from gen_worker import RequestContext, inference_function

class In(msgspec.Struct):
    text: str
    delay_s: float = 0.0

class Out(msgspec.Struct):
    text: str

@inference_function
def say(ctx: RequestContext, payload: In) -> Out:
    time.sleep(payload.delay_s)
    return Out("{word} " + payload.text)
"""


class Finished(Protocol):
    """What a command left behind."""

    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...
    @property
    def code(self) -> int: ...


class Cli(Protocol):
    """The fixture of the folder above: runs `gen-worker` in a folder of the test's own."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: str, project: str | Path = ".", **environment: str) -> Finished: ...
    def start(self, *words: str, project: str | Path = ".") -> subprocess.Popen[str]: ...


class Project:
    """A project whose function answers with a word and what it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "endpoint.toml").write_text(_TOML)
        self.write("one")

    def write(self, word: str) -> None:
        self.write_source(_APP.replace("{word}", word))

    def write_source(self, source: str) -> None:
        (self.folder / "app.py").write_text(source)


class StartUp(Protocol):
    """Starts a platform on the test's data folder, and waits until it answers."""

    def __call__(
        self, *words: str, project: Project | None = None, is_open: bool = True
    ) -> Platform: ...


class Platform:
    """A `gen-worker up` that answers, or that has said why it does not."""

    def __init__(self, process: subprocess.Popen[str], run: Callable[..., Finished]) -> None:
        self.process = process
        self.run = run
        self.urls: dict[str, str] = {}
        self._lines: list[str] = []
        self._seen = 0
        self._changed = threading.Condition()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def open(self) -> Platform:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.transcript
        self.urls = msgspec.json.decode(line)
        return self

    @property
    def url(self) -> str:
        return self.urls["url"]

    @property
    def transcript(self) -> str:
        return "".join(self._lines)

    def expect(self, text: str) -> str:
        """Return the next line that has `text`."""
        with self._changed:
            deadline = time.monotonic() + TIMEOUT_S
            while True:
                while self._seen < len(self._lines):
                    self._seen += 1
                    if text in self._lines[self._seen - 1]:
                        return self._lines[self._seen - 1]
                is_over = not self._reading.is_alive() and self._seen == len(self._lines)
                left = deadline - time.monotonic()
                assert left > 0, f"{text!r} is not in {self.transcript}"
                assert not is_over, f"{text!r} is not in {self.transcript}"
                self._changed.wait(min(left, 0.2))

    def call(self, text: str = "x", *, name: str = "shout/say", **more: Any) -> Any:
        """Call the function, and return what it says."""
        answer = self.ask("POST", f"/v1/request/{name}", {"text": text, **more})
        assert answer["success"], answer
        return answer["output"]["text"]

    def submit(self, text: str, **more: Any) -> str:
        """Submit a request and return its id."""
        body = {"function": "shout/say", "payload": {"text": text, **more}}
        return str(self.ask("POST", "/v1/requests", body)["request_id"])

    def ended(self, request_id: str) -> Any:
        """Wait for the end of a request; return all that is known of it."""
        return self.await_status(request_id, "succeeded", "failed", "canceled")

    def await_status(self, request_id: str, *wanted: str) -> Any:
        def look() -> Any:
            found = self.ask("GET", f"/v1/requests/{request_id}")
            return found if found["status"] in wanted else None

        return self.until(look)

    def await_workers(self, count: int) -> None:
        def look() -> bool:
            rows = self.ask("GET", "/v1/workers")["workers"]
            return len([row for row in rows if row["state"] == "ready"]) == count

        self.until(look)

    def await_answer(self) -> None:
        """Wait until the scheduler answers again."""

        def look() -> bool:
            try:
                self.ask("GET", "/v1/demand")
            except OSError:
                return False
            return True

        self.until(look)

    def await_gone(self, pids: list[int]) -> None:
        """Wait until none of these processes runs; the number of one may be another's by then."""
        began = {pid: started_at(pid) for pid in pids}
        self.until(lambda: not any(at and started_at(pid) == at for pid, at in began.items()))

    def until(self, look: Callable[[], T]) -> T:
        """Wait for something; return it."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := look()):
            assert time.monotonic() < deadline, self.transcript
            time.sleep(0.02)
        return found

    def ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(self.url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return msgspec.json.decode(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code} {error.read()!r}") from error

    def processes(self) -> dict[str, Any]:
        """Return what `gen-worker ps` lists, by name."""
        return {row["name"]: row for row in self.rows("ps", "processes")}

    def rows(self, command: str, name: str, *words: str) -> list[Any]:
        done = self.run(command, *words)
        assert done.code == 0, done.stderr
        return list(msgspec.json.decode(done.stdout)[name])

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(TIMEOUT_S)
        self._reading.join(TIMEOUT_S)
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()


@pytest.fixture
def project(cli: Cli) -> Project:
    return Project(cli.folder / "shout")


@pytest.fixture
def elsewhere(cli: Cli) -> Path:
    """A folder that is no project."""
    folder = cli.folder / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture
def start_up(cli: Cli, elsewhere: Path) -> Iterator[StartUp]:
    """Start platforms on the test's data folder, with the environment of `cli`."""
    started: list[Platform] = []
    cli.environment["USER"] = "ann"

    def start(*words: str, project: Project | None = None, is_open: bool = True) -> Platform:
        folder = project.folder if project is not None else elsewhere
        process = cli.start("up", "--http", "127.0.0.1:0", *words, project=folder)
        platform = Platform(process, lambda *words: cli(*words, project=elsewhere))
        started.append(platform)
        return platform.open() if is_open else platform

    yield start
    for platform in started:
        if platform.process.poll() is None:
            platform.process.send_signal(signal.SIGINT)
            platform.process.send_signal(signal.SIGINT)
            platform.process.wait(TIMEOUT_S)
