"""Kill -9 of the orchestrator, of the worker, and of both, while jobs run: real processes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.testing.held_port import HeldPort
from gen_worker.testing.workers import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOML = 'schema_version = 1\nname = "shop"\nmain = "shop"\n'
CODE = """
from collections.abc import AsyncIterator, Iterator
import msgspec
from gen_worker import RequestContext, inference_function

class Text(msgspec.Struct):
    text: str = ""
    count: int = 0

@inference_function
async def echo(ctx: RequestContext, payload: Text) -> Text:
    return payload

@inference_function
def echo_in_thread(ctx: RequestContext, payload: Text) -> Text:
    return payload

@inference_function
def count(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for number in range(payload.count):
        yield Text(text=f"{payload.text}{number} ")

@inference_function
async def count_async(ctx: RequestContext, payload: Text) -> AsyncIterator[Text]:
    for number in range(payload.count):
        yield Text(text=f"{payload.text}{number} ")
"""
JOBS = 60
KILLS = 2
TIMEOUT_S = 120.0


class Line(msgspec.Struct):
    """What `orchestrator_process.py` writes of one message."""

    kind: str
    id: str = ""
    attempt: int = 0
    number: int = 0
    text: str = ""
    payload: bytes = b""
    error_type: str = ""


class OrchestratorProcess:
    """One that can be killed and started again, at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = HeldPort()
        self.address = f"127.0.0.1:{self._port.number}"

    def start(self) -> None:
        script = str(Path(__file__).with_name("orchestrator_process.py"))
        place = self._folder / "address"
        place.unlink(missing_ok=True)
        self._process = subprocess.Popen([sys.executable, script, str(self._folder), self.address])
        wait_for(place.exists)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.kill()
        self._port.close()

    def said(self) -> bytes:
        """Return what it wrote so far; the last line may be in the making."""
        path = self._folder / "heard"
        return path.read_bytes() if path.exists() else b""

    def heard(self) -> list[Line]:
        """Return what it wrote, once it is finished."""
        lines = self.said().split(b"\n")[:-1]
        return [msgspec.json.decode(line, type=Line) for line in lines]


def wait_for(look: Callable[[], object]) -> None:
    """Wait for another process, which has nothing but its files to say that something happened."""
    ends_at = time.monotonic() + TIMEOUT_S
    while not look():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "endpoint.toml").write_text(TOML)
    (folder / "shop.py").write_text(CODE)
    return folder


@pytest.fixture
def orchestrator(tmp_path: Path) -> Iterator[OrchestratorProcess]:
    process = OrchestratorProcess(tmp_path)
    yield process
    process.close()


def ask_some(folder: Path, choice: random.Random) -> dict[str, str]:
    """Write down jobs; return the text that is right for each."""
    right = {}
    with open(folder / "jobs", "wb") as file:
        for index in range(JOBS):
            request_id, text = f"r{index}", f"{index}-"
            function = choice.choice(["echo", "echo-in-thread", "count", "count-async"])
            payload: dict[str, Any] = {"text": text}
            right[request_id] = text
            if function.startswith("count"):
                payload["count"] = choice.randint(0, 60)
                right[request_id] = "".join(
                    f"{text}{number} " for number in range(payload["count"])
                )
            line = {"id": request_id, "function": function, "payload": payload}
            file.write(msgspec.json.encode(line) + b"\n")
    return right


def check_ended_once(lines: list[Line], right: str) -> None:
    """Check that a client sees one end of its request, and the right text before it."""
    results = [line for line in lines if line.kind == "JobResult"]
    assert results
    assert len({line.payload for line in results}) == 1
    assert {line.error_type for line in results} == {""}
    if results[0].payload:
        assert msgspec.msgpack.decode(results[0].payload)["text"] == right
        return
    last = max(line.attempt for line in lines)
    mine = [line for line in lines if line.attempt == last]
    said = {line.number: line.text for line in mine if line.kind == "TokenDelta"}
    assert all(said[line.number] == line.text for line in mine if line.kind == "TokenDelta")
    assert "".join(said[number] for number in sorted(said)) == right
    (end,) = {line.number for line in mine if line.kind == "StreamDone"}
    assert len(said) == end - 1


@pytest.mark.chaos
def test_whoever_is_killed_every_request_ends_once(
    tmp_path: Path, project: Path, orchestrator: OrchestratorProcess, seed: int
) -> None:
    choice = random.Random(seed)
    victims = [("orchestrator",), ("worker",), ("orchestrator", "worker")][seed % 3]
    right = ask_some(tmp_path, choice)
    orchestrator.start()
    environment = {"WORKER_MERGE_DELTAS": "0"}
    with WorkerProcess(project, orchestrator.address, environment=environment) as worker:
        processes: dict[str, OrchestratorProcess | WorkerProcess]
        processes = {"orchestrator": orchestrator, "worker": worker}

        def is_finished() -> bool:
            return b'"kind":"finished"' in orchestrator.said()

        moments = sorted(choice.randint(1, 1500) for _ in range(KILLS))
        print(f"seed {seed}: {victims} killed at the lines {moments}")
        for moment in moments:
            wait_for(lambda: is_finished() or orchestrator.said().count(b"\n") >= moment)  # noqa: B023
            for name in choice.sample(victims, len(victims)):
                processes[name].kill()
            for name in choice.sample(victims, len(victims)):
                processes[name].start()
        wait_for(is_finished)
        # The last one may have been started for nothing, and still be about to.
        ready = f'"phase":"ready","status":"ok","pid":{worker.pid},'
        wait_for(lambda: ready in worker.log)
        assert worker.terminate() == 0, worker.log
    by_id: dict[str, list[Line]] = {}
    for line in orchestrator.heard():
        by_id.setdefault(line.id, []).append(line)
    for request_id, text in right.items():
        check_ended_once(by_id[request_id], text)
