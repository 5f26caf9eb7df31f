"""`gen-worker client generate`, against a real host."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Cli, Server

    Serve = Callable[..., Server]

HTTP = ("--http", "127.0.0.1:0", "--function", "echo")


def url_of(server: Server) -> str:
    return server.transcript.partition("listening on ")[2].split(" ")[0]


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("generated", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generated"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["generated"]
    return module


@pytest.mark.claims("client.generate")
def test_a_module_is_written_and_called_through(cli: Cli, serve: Serve) -> None:
    url = url_of(serve(*HTTP))
    printed = cli("client", "generate", url)
    assert printed.code == 0
    path = cli.folder / "api.py"
    path.write_text("old")
    done = cli("client", "generate", url.removeprefix("http://"), "--out", str(path))
    assert (done.code, done.stdout) == (0, "")
    assert done.stderr == f"gen-worker client: wrote {path}\n"
    assert path.read_text() == printed.stdout
    assert [name for name in os.listdir(cli.folder) if name.endswith(".part")] == []
    module = load(path)
    with Client(url) as client:
        assert module.Shapes(client).echo(module.Ask(text="a")).text == "a"


@pytest.mark.claims("client.host")
def test_the_host_is_named_by_the_surroundings(cli: Cli, serve: Serve) -> None:
    url = url_of(serve(*HTTP))
    done = cli("client", "generate", GEN_WORKER_URL=url)
    assert "class Shapes:" in done.stdout


@pytest.mark.claims("client.host")
def test_a_host_that_is_not_there_is_one_line(cli: Cli) -> None:
    done = cli("client", "generate", "127.0.0.1:9")
    assert (done.code, done.stdout) == (1, "")
    said = "the host cannot be reached: nobody listens at http://127.0.0.1:9"
    assert done.stderr == f"gen-worker client: {said}\n"
    done = cli("client", "generate")
    assert done.code == 2
    assert "no platform runs" in done.stderr


@pytest.mark.claims("client.generate")
def test_a_file_that_cannot_be_written_is_one_line(cli: Cli, serve: Serve) -> None:
    url = url_of(serve(*HTTP))
    done = cli("client", "generate", url, "--out", str(cli.folder / "no" / "api.py"))
    assert done.code == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
