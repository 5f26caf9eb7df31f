"""`gen-worker convert --out REF`, killed or with a hub that fails: the same command ends it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Cli

pytest.importorskip("torch")
uvicorn: Any = pytest.importorskip("uvicorn")

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": "", "PYTHONWARNINGS": "default"}
COMMAND = ("convert", "model", "--to", "bf16,fp16", "--out", "acme/made:prod")
ROWS = 256


class FailingHub:
    """A real hub in this process; at a request of a test's choice something happens first."""

    def __init__(self, local: Any, url: str, folder: Path) -> None:
        self.local = local
        self.folder = folder
        self.url = url
        self.sent_bytes = 0
        self.asked: list[str] = []
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
        if is_change and 0 < self.fault_at <= len(self.asked):
            if self.victim is not None:
                self.victim.send_signal(signal.SIGKILL)
            await _refuse(self.status, receive, send)
            return
        await self.local.app(scope, receive, send)
        sizes = [int(value) for name, value in scope["headers"] if name == b"content-length"]
        self.sent_bytes += sum(sizes) if scope["method"] == "PUT" else 0

    def heal(self) -> None:
        self.asked.clear()
        self.fault_at = self.sent_bytes = 0
        self.victim = None

    def held_bytes(self) -> int:
        """Return how much of what was sent the hub has taken: nobody has to send that again."""
        blobs = [path for path in self.folder.glob("**/blobs/**/*") if path.is_file()]
        return sum(blob.stat().st_size for blob in blobs)

    def tree(self, tag: str) -> list[str]:
        from gen_worker.models.hub import HubClient

        with HubClient(self.url, self.local.issue_token("admin")) as client:
            entries = client.tree("acme", "made", tag=tag, flavor="fp16")
        return sorted(entry["path"] for entry in entries)


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
    environment = {**ENVIRONMENT, "TENSORHUB_URL": hub.url}
    environment["TENSORHUB_TOKEN"] = hub.local.issue_token("admin")
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
    assert "convert.done" not in kinds  # nothing was converted again
    assert "model.safetensors" in hub.tree("prod")
    published = json.loads(stdout.splitlines()[-1])
    assert hub.sent_bytes <= published["size_bytes"] - held_bytes
    assert os.listdir(cli.folder / ".gen-worker-convert") == []
    assert (cli.folder / "model" / "model.safetensors").read_bytes() == before
