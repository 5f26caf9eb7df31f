"""`gen-worker init`: a project that runs and passes its own tests as it is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Cli

EXAMPLE = Path(__file__).parents[3] / "examples" / "from-scratch"
LEFT_BEHIND = {"__pycache__", ".pytest_cache", ".ruff_cache", ".gen-worker-run", ".venv", "uv.lock"}


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not LEFT_BEHIND & set(path.parts)
    }


@pytest.mark.claims("init.example")
def test_init_writes_exactly_the_example(cli: Cli) -> None:
    assert cli("init", "from-scratch").code == 0
    assert files_of(cli.folder / "from-scratch") == files_of(EXAMPLE)


@pytest.mark.claims("init.runs")
def test_a_new_project_runs_and_passes_its_tests(cli: Cli) -> None:
    done = cli("init", "My First_Endpoint")
    folder = cli.folder / "My First_Endpoint"
    assert (done.stdout, done.code) == ("", 0)
    assert done.stderr.startswith(f"created {folder}\n")
    answer = cli("run", "Ada", "times=2", project=folder)
    assert answer.values == [{"event": "result", "value": {"message": "Hello, Ada! Hello, Ada!"}}]
    (document,) = cli("describe", project=folder).values
    assert isinstance(document, dict)
    assert document["endpoint"]["name"] == "my-first-endpoint"
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout
    assert "3 passed" in tests.stdout


@pytest.mark.claims("init.here")
def test_a_dot_fills_the_current_folder(cli: Cli) -> None:
    folder = cli.folder / "here-it-is"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert cli("init", ".", project=folder).code == 0
    assert (folder / "src" / "here_it_is" / "main.py").exists()
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.claims("init.refusals")
def test_nothing_that_exists_is_overwritten(cli: Cli) -> None:
    folder = cli.folder / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("precious")
    done = cli("init", "mine")
    assert done.code == 2
    assert "has README.md already: nothing was written" in done.stderr
    assert files_of(folder) == {"README.md": "precious"}


@pytest.mark.claims("init.refusals")
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("email", "would hide the Python module 'email'"),
        ("gen_worker", "would hide the Python module 'gen_worker'"),
        ("2cool", "cannot name a Python package"),
        ("!!", "cannot name a Python package"),
        ("class", "cannot name a Python package"),
        ("some-file", "is a file"),
    ],
)
def test_a_name_that_cannot_work_is_refused(cli: Cli, name: str, part: str) -> None:
    (cli.folder / "some-file").touch()
    done = cli("init", name)
    assert (done.stdout, done.code) == ("", 2)
    assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in cli.folder.iterdir()) == ["some-file"]
