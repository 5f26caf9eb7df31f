"""`gen-worker serve --reload`: clients wait while the server changes."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cli.reload import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Cli, Server

PROJECT = """
import os, sys
import msgspec
from gen_worker import RequestContext, inference_function

class Out(msgspec.Struct):
    text: str
    pid: int

class In(msgspec.Struct):
    pass

@inference_function
def say(ctx: RequestContext, payload: In) -> Out:
    return Out(text="before", pid=os.getpid())
"""


@pytest.fixture
def reloading(cli: Cli, serve: Callable[..., Server]) -> Server:
    """Serve the test's own folder, again after each change."""
    return serve("--reload", project=cli.write_project(PROJECT))


def ask(cli: Cli) -> dict[str, Any]:
    """Make a request; whoever answers may still have to start."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(60)
        peer.connect(str(cli.folder / ".gen-worker.sock"))
        peer.sendall(b'{"function":"say"}\n')
        with peer.makefile("rb") as lines:
            value: dict[str, Any] = json.loads(lines.readline())["events"][0]["value"]
    return value


def change(cli: Cli, before: str, after: str) -> None:
    path = cli.folder / "app.py"
    path.write_text(path.read_text().replace(before, after))


@pytest.mark.claims("serve.reload")
def test_a_change_starts_it_again_and_clients_wait(cli: Cli, reloading: Server) -> None:
    first = ask(cli)
    assert first["text"] == "before"
    change(cli, "before", "after")
    reloading.expect("app.py changed, starting again")
    reloading.expect("gen-worker serve: stopped")
    second = ask(cli)  # nobody is refused while there is no server
    assert second["text"] == "after"
    assert second["pid"] != first["pid"]
    document = json.loads((cli.folder / ".gen-worker.sock.json").read_text())
    assert document["pid"] == second["pid"]
    assert reloading.stop() == 0
    assert not (cli.folder / ".gen-worker.sock").exists()
    assert not (cli.folder / ".gen-worker.sock.json").exists()


@pytest.mark.claims("serve.reload-broken")
def test_a_mistake_is_told_and_mended(cli: Cli, reloading: Server) -> None:
    change(cli, "return Out", "return return Out")
    reloading.expect("app.py changed, starting again")
    reloading.expect("invalid syntax")
    reloading.expect("waiting for a change")
    assert not (cli.folder / ".gen-worker.sock.json").exists(), "nobody is ready"
    change(cli, "return return Out", "return Out")
    assert ask(cli)["text"] == "before"
    assert reloading.stop(signal.SIGINT) == 0


@pytest.mark.claims("serve.reload")
def test_no_server_survives_its_supervisor(cli: Cli, reloading: Server) -> None:
    ask(cli)
    reloading.process.kill()
    reloading.expect("gen-worker serve: stopped")


@pytest.mark.claims("serve.reload")
def test_a_port_that_was_picked_stays(cli: Cli, serve: Callable[..., Server]) -> None:
    folder = cli.write_project(PROJECT)
    server = serve("--reload", "--listen", "tcp://0.0.0.0:0", project=folder)
    path = folder / ".gen-worker.serve.json"
    before = json.loads(path.read_text())
    change(cli, "before", "after")
    server.expect("gen-worker serve: ready")
    after = json.loads(path.read_text())
    assert after["pid"] != before["pid"]
    assert (after["listen"], after["token"]) == (before["listen"], before["token"])


def test_what_counts_as_a_change(tmp_path: Path) -> None:
    for name in ("a.py", "endpoint.toml", "result.json", ".hidden.py", "venv/b.py", "deep/c.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    before = snapshot(str(tmp_path))
    assert {os.path.relpath(path, tmp_path) for path in before} == {
        "a.py",
        "endpoint.toml",
        "deep/c.yaml",
    }
    os.utime(tmp_path / "a.py", ns=(1, 1))
    assert snapshot(str(tmp_path)) != before
