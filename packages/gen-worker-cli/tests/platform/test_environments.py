"""Names of environments, and the interpreters behind them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from gen_worker.cli.failures import UsageError
from gen_worker.cli.platform.environments import (
    environment_name,
    interpreter_of,
    project_interpreter,
)
from gen_worker.cli.platform.folder import DataFolder
from gen_worker.cli.platform.workers import Ticket, worker_environment

if TYPE_CHECKING:
    from pathlib import Path


def test_the_interpreter_that_runs_us_is_the_default() -> None:
    assert environment_name(sys.executable, "paint", {}) == "default"
    assert interpreter_of("default", {}, "file") == sys.executable


def test_an_environment_is_named_after_its_endpoint_and_keeps_its_name() -> None:
    assert environment_name("/a/bin/python", "Paint It", {}) == "paint-it"
    assert environment_name("/a/bin/python", "sing", {"paint": "/a/bin/python"}) == "paint"
    taken = {"paint": "/a/bin/python", "paint-2": "/b/bin/python"}
    assert environment_name("/c/bin/python", "paint", taken) == "paint-3"
    assert environment_name("/c/bin/python", "default", {}) == "default-2"


def test_an_environment_that_is_not_here_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"'gpu': no interpreter is known for it; name one in f"):
        interpreter_of("gpu", {}, "f")
    with pytest.raises(UsageError, match="'/nowhere/python' is gone"):
        interpreter_of("gpu", {"gpu": "/nowhere/python"}, "f")


def test_a_projects_own_environment_is_taken_if_it_has_the_runtime(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert project_interpreter(str(tmp_path)) == sys.executable
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    own.chmod(0o755)
    assert project_interpreter(str(tmp_path)) == str(own)
    own.write_text("#!/bin/sh\nexit 1\n")
    assert project_interpreter(str(tmp_path)) == sys.executable
    assert f"{own} has no gen-worker-runtime" in capfd.readouterr().err


def test_a_worker_is_not_given_what_may_do_more_than_it(tmp_path: Path) -> None:
    mine = {f"GEN_WORKER_{name}": "x" for name in ("TOKEN", "SCHEDULER_TOKEN")}
    mine |= {"GEN_WORKER_SCHEDULER_WORKER_TOKEN": "x", "HF_TOKEN": "theirs"}
    found = worker_environment(mine, Ticket(token="jwt"), DataFolder(str(tmp_path)))
    assert not found.keys() & mine.keys() - {"HF_TOKEN"}
    assert (found["WORKER_JWT"], found["HF_TOKEN"]) == ("jwt", "theirs")
