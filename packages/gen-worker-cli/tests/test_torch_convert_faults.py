"""`gen-worker convert --out REF`: files go up early, and after a kill the same command ends it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Cli

pytest.importorskip("torch")
uvicorn: Any = pytest.importorskip("uvicorn")

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": "", "PYTHONWARNINGS": "default"}
COMMAND = ("convert", "model", "--to", "bf16,fp16", "--out", "acme/made:prod")
ROWS = 256


GATED = """
import os, signal, sys, time
from gen_worker.cli import main
from gen_worker.conversion.convert import running

write = running.write_safetensors

def gated(*args, on_file, **options):
    def then(file):
        on_file(file)
        act(os.path.basename(file.path), file.path)
    return write(*args, on_file=then, **options)

def wait_for(answer):
    deadline = time.monotonic() + 120
    while not os.path.exists(os.path.join("answers", answer)):
        assert time.monotonic() < deadline, answer
        time.sleep(0.01)

running.write_safetensors = gated
%s
sys.exit(main())
"""
"""The command, with something that it does after each file, before it writes the next one."""


class FailingHub:
    """A real hub in this process; at a request of a test's choice something happens first."""

    def __init__(self, local: Any, url: str, folder: Path) -> None:
        self.local = local
        self.folder = folder
        self.url = url
        self.sent_bytes = 0
        self.asked: list[str] = []
        self.answers = Counter[str]()
        """How often what was asked was answered; each is a file `answers/<name>-<count>`, too."""
        self.refuse_once = ""
        """Last part of the path of a request that is refused when it comes first."""
        self.fault_at = 0
        """Of which changing request; 0 for none."""
        self.status = 500
        self.victim: subprocess.Popen[str] | None = None
        """Killed at that request, instead of an answer with the status."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        is_change = scope["method"] in ("POST", "PUT")
        self.asked += [scope["path"]] if is_change else []
        if self.refuse_once and scope["path"].endswith(self.refuse_once):
            self.refuse_once = ""
            await _refuse(409, receive, send)
            self._note("refused")
            return
        if is_change and 0 < self.fault_at <= len(self.asked):
            if self.victim is not None:
                self.victim.send_signal(signal.SIGKILL)
            await _refuse(self.status, receive, send)
            return
        await self.local.app(scope, receive, send)
        sizes = [int(value) for name, value in scope["headers"] if name == b"content-length"]
        self.sent_bytes += sum(sizes) if scope["method"] == "PUT" else 0
        is_file = scope["method"] in ("PUT", "DELETE")
        self._note(scope["method"] if is_file else scope["path"].rpartition("/")[2])

    def _note(self, answer: str) -> None:
        self.answers[answer] += 1
        folder = self.folder.parent / "answers"
        folder.mkdir(exist_ok=True)
        (folder / f"{answer}-{self.answers[answer]}").touch()

    def heal(self) -> None:
        self.asked.clear()
        self.fault_at = self.sent_bytes = 0
        self.victim = None

    def held_bytes(self) -> int:
        """Return how much of what was sent the hub has taken: nobody has to send that again."""
        blobs = [path for path in self.folder.glob("**/blobs/**/*") if path.is_file()]
        return sum(blob.stat().st_size for blob in blobs)

    def tree(self, tag: str, flavor: str = "fp16") -> list[str]:
        from gen_worker.models.hub import HubClient

        with HubClient(self.url, self.local.issue_token("admin")) as client:
            entries = client.tree("acme", "made", tag=tag, flavor=flavor)
        return sorted(entry["path"] for entry in entries)

    def environment(self) -> dict[str, str]:
        token = self.local.issue_token("admin")
        return {**ENVIRONMENT, "TENSORHUB_URL": self.url, "TENSORHUB_TOKEN": token}


async def _refuse(status: int, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FailingHub]:
    from gen_worker.models.hub import HubOptions, LocalHub

    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with LocalHub(tmp_path / "hub", options=HubOptions()) as local:
        hub = FailingHub(local, url, tmp_path / "hub")
        config = uvicorn.Config(hub, log_level="critical", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield hub
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def write_model(folder: Path) -> None:
    sizes = [ROWS * 128 * number for number in range(4)]
    header = {
        f"layer.{number}.weight": {
            **{"dtype": "F32", "shape": [ROWS, 32]},
            "data_offsets": [start, start + ROWS * 128],
        }
        for number, start in enumerate(sizes)
    }
    text = json.dumps(header).encode()
    folder.mkdir()
    content = b"".join(struct.pack("<f", number) for number in range(ROWS * 32 * 4))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content)


@pytest.mark.chaos(seeds=2)
def test_a_publication_that_broke_off_is_ended_by_the_same_command(
    cli: Cli, hub: FailingHub, seed: int
) -> None:
    chance = random.Random(seed)
    write_model(cli.folder / "model")
    before = (cli.folder / "model" / "model.safetensors").read_bytes()
    environment = hub.environment()
    hub.fault_at = 12 - seed * 5 % 11  # 2 to 12: the first asks whether the hub is there
    hub.status = chance.choice((401, 403, 404, 409))
    is_killed = seed % 2 == 1

    process = cli.start(*COMMAND, **environment)
    hub.victim = process if is_killed else None
    _, stderr = process.communicate(timeout=300)

    assert process.returncode == (-signal.SIGKILL if is_killed else 1)
    if not is_killed:
        assert "Traceback" not in stderr
        assert stderr.splitlines()[-1].startswith("gen-worker convert: ")
    assert hub.tree("prod") == hub.tree("latest") == []
    held_bytes = hub.held_bytes()
    hub.heal()

    process = cli.start(*COMMAND, **environment)
    stdout, stderr = process.communicate(timeout=300)

    assert process.returncode == 0, stderr
    kinds = [json.loads(line)["kind"] for line in stdout.splitlines()]
    assert is_killed or "convert.done" not in kinds  # nothing was converted again
    assert "model.safetensors" in hub.tree("prod")
    published = json.loads(stdout.splitlines()[-1])
    assert hub.sent_bytes <= published["size_bytes"] - held_bytes
    assert os.listdir(cli.folder / ".gen-worker-convert") == []
    assert (cli.folder / "model" / "model.safetensors").read_bytes() == before


SHARDED = ("convert", "model", "--to", "fp16", "--out", "acme/made:prod")
FOUR = ("--max-shard-bytes", "20000")
SHARDS = [f"model-{number:05d}-of-00004.safetensors" for number in range(1, 5)]


def run_gated(cli: Cli, hub: FailingHub, act: str) -> tuple[int, list[dict[str, Any]], str]:
    """Convert to four shards and publish; `act` defines what is done after each file."""
    done = subprocess.run(
        [sys.executable, "-c", GATED % act, *SHARDED, *FOUR],
        cwd=cli.folder,
        env={**cli.environment, **hub.environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, told, done.stderr


@pytest.mark.claims("convert.early")
def test_a_file_is_sent_before_the_next_one_is_made(cli: Cli, hub: FailingHub) -> None:
    write_model(cli.folder / "model")

    code, told, stderr = run_gated(
        cli, hub, "def act(name, path): '00001' in name and wait_for('PUT-1')"
    )

    assert code == 0, stderr
    assert set(SHARDS) < set(hub.tree("prod"))
    assert hub.answers["revisions"] == hub.answers["finalize"] == 1
    published = told[-1]
    assert hub.answers["uploads"] == published["files"]  # none twice
    assert hub.sent_bytes == published["sent_bytes"] == published["size_bytes"]
    assert all("sent_bytes" in one for one in told if one["kind"] == "convert.progress")
    assert os.listdir(cli.folder / ".gen-worker-convert") == []


@pytest.mark.claims("convert.early")
def test_a_file_that_was_refused_early_is_sent_in_the_end(cli: Cli, hub: FailingHub) -> None:
    write_model(cli.folder / "model")
    hub.refuse_once = "/uploads"

    code, told, stderr = run_gated(
        cli, hub, "def act(name, path): '00001' in name and wait_for('refused-1')"
    )

    assert code == 0, stderr
    assert set(SHARDS) < set(hub.tree("prod"))
    assert hub.answers["uploads"] == told[-1]["files"]


@pytest.mark.claims("convert.early")
def test_what_is_not_right_is_never_visible(cli: Cli, hub: FailingHub) -> None:
    write_model(cli.folder / "model")
    act = """
def act(name, path):
    if "00001" in name:
        wait_for("complete-1")
        with open(path, "r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(bytes([255, 255]))  # no number
"""

    code, told, stderr = run_gated(cli, hub, act)

    assert code == 1
    assert "model-00001" in stderr or "layer.0" in stderr, stderr
    assert told[-1]["kind"] == "convert.done"
    assert hub.tree("prod") == hub.tree("latest") == []
    assert (hub.answers["revisions"], hub.answers["finalize"]) == (1, 0)
    assert hub.answers["DELETE"] >= 1  # the revision
    assert os.listdir(cli.folder / ".gen-worker-convert") == []


@pytest.mark.claims("convert.early", "convert.resume")
def test_what_was_sent_before_a_kill_is_not_sent_again(cli: Cli, hub: FailingHub) -> None:
    write_model(cli.folder / "model")
    act = """
def act(name, path):
    if "00002" in name:
        wait_for("complete-2")
        os.kill(os.getpid(), signal.SIGKILL)
"""

    code, _, stderr = run_gated(cli, hub, act)

    assert code == -signal.SIGKILL, stderr
    assert hub.tree("prod") == hub.tree("latest") == []
    held_bytes = hub.held_bytes()
    hub.heal()

    process = cli.start(*SHARDED, *FOUR, **hub.environment())
    stdout, stderr = process.communicate(timeout=300)

    assert process.returncode == 0, stderr
    told = {one["kind"]: one for one in map(json.loads, stdout.splitlines())}
    assert told["convert.done"]["resumed"] == 2
    published = told["convert.published"]
    assert hub.sent_bytes == published["size_bytes"] - held_bytes
    assert hub.sent_bytes == published["sent_bytes"]
    assert set(SHARDS) < set(hub.tree("prod"))
    assert os.listdir(cli.folder / ".gen-worker-convert") == []
