"""The Dockerfiles: linted, and each step run here as the shell commands it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = [ROOT / "Dockerfile", *sorted((ROOT / "docker").glob("*.Dockerfile"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCKERFILES]
EVERY = pytest.mark.parametrize("path", DOCKERFILES, ids=NAMES)
KNOWN = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "ENTRYPOINT"}


def steps_of(path: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions and their arguments, continued lines joined."""
    joined = re.sub(r"\s*\\\n\s*", " ", path.read_text())
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def shell_of(arguments: str) -> str:
    return re.sub(r"^(\s*--mount=\S+)+\s*", "", arguments)


def shells_of(path: Path) -> list[str]:
    return [shell_of(step) for name, step in steps_of(path) if name == "RUN"]


@EVERY
def test_lint(path: Path) -> None:
    steps = steps_of(path)
    assert path.read_text().startswith("# syntax=docker/dockerfile:1\n")
    assert {name for name, _ in steps} <= KNOWN  # no ADD, no USER: see docs/decisions/0760
    for name, step in steps:
        if name == "FROM":
            image = step.split()[0]
            assert ":" in image
            assert not image.endswith(":latest")
        if name == "WORKDIR":
            assert step.startswith("/")
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", shell_of(step)], check=True)
            assert "sudo" not in step
            assert " | " not in step  # of a pipe only the last command could fail
            if "apt-get install" in step:
                assert "--yes --no-install-recommends" in step
                assert step.endswith("rm -rf /var/lib/apt/lists/*")
        if name in ("ARG", "ENV"):
            assert not re.search(r"(?i)(token|secret|password|jwt)\w*=", step)


@EVERY
def test_the_contract(path: Path) -> None:
    steps = steps_of(path)
    assert steps[-1] == ("ENTRYPOINT", '["python", "-m", "gen_worker.entrypoint"]')
    sources = steps.index(("COPY", ". ."))
    names = [step for name, step in steps if name == "ARG"]
    backend = "cpu" if "cpu" in path.name else "cu126"
    assert names == [
        "PYTHON_VERSION=3.12",
        f"UV_TORCH_BACKEND={backend}",
        "TORCH_SPEC='~=2.11.0'",
    ]
    (lock,) = [n for n, (_, step) in enumerate(steps) if "gen_worker.discovery" in step]
    (install,) = [n for n, (_, step) in enumerate(steps) if "uv pip install" in step]
    assert install < sources < lock
    environment = " ".join(step for name, step in steps if name == "ENV")
    assert "GEN_WORKER_USER=worker" in environment
    assert [step for name, step in steps if name == "WORKDIR"][-1] == "/app"


@pytest.mark.parametrize("path", DOCKERFILES[1:], ids=NAMES[1:])
def test_what_builds_stays_out_of_the_image(path: Path) -> None:
    stages = [step for name, step in steps_of(path) if name == "FROM"]
    assert stages[0].endswith(" AS build")
    assert stages[-1] == "python:${PYTHON_VERSION}-slim-bookworm"
    last = steps_of(path)[[n for n, (name, _) in enumerate(steps_of(path)) if name == "FROM"][-1] :]
    assert [step for name, step in last if name == "COPY"] == [
        "--from=build /opt/venv /opt/venv",
        "--from=build /app /app",
    ]
    assert all("uv " not in step for name, step in last if name == "RUN")


class Machine:
    """A directory that stands for the image's root, with commands that write down their words."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.log = folder / "log"
        self.binaries = folder / "bin"
        self.binaries.mkdir(parents=True)
        for place in ("app", "tmp", "var/lib/apt/lists"):
            (self.root / place).mkdir(parents=True)
        for command in ("uv", "useradd", "chown", "apt-get"):
            self.stand_in(command, f'echo "{command} $*" >> "{self.log}"')

    def stand_in(self, command: str, script: str) -> None:
        path = self.binaries / command
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, step: str, **environment: str) -> None:
        places = r"(?<![\w.])/(app|tmp|outputs|var)(?=[/\s;]|$)"
        subprocess.run(
            ["sh", "-e", "-c", re.sub(places, rf"{self.root}/\1", step)],
            cwd=self.root / "app",
            env={"PATH": f"{self.binaries}:/usr/bin:/bin", **environment},
            check=True,
        )

    @property
    def said(self) -> list[str]:
        return self.log.read_text().splitlines()


@EVERY
@pytest.mark.parametrize(("backend", "spec"), [("cu126", "~=2.11.0"), ("cu128", ">=2.9,<3")])
@pytest.mark.parametrize("is_locked", [True, False], ids=["locked", "unlocked"])
def test_the_arguments_reach_the_installer(
    path: Path, tmp_path: Path, backend: str, spec: str, is_locked: bool
) -> None:
    machine = Machine(tmp_path)
    if is_locked:
        (machine.root / "app" / "uv.lock").write_text("")
    (step,) = [step for step in shells_of(path) if "uv pip install" in step]
    machine.run(step, UV_TORCH_BACKEND=backend, TORCH_SPEC=spec)
    *export, install = machine.said
    assert [line.startswith("uv export --quiet --frozen") for line in export] == [True] * is_locked
    assert f"--torch-backend {backend} " in install
    assert install.endswith(" gen-worker")
    assert (machine.root / "tmp" / "torch.txt").read_text() == f"torch{spec}\n"


@EVERY
def test_the_user_and_what_belongs_to_it(path: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (step,) = [step for step in shells_of(path) if "useradd" in step]
    machine.run(step)
    outputs, cache = machine.root / "outputs", machine.root / "var/cache/gen-worker/inductor"
    assert outputs.is_dir()
    assert machine.said == [
        "useradd --create-home --uid 10001 worker",
        f"chown worker:worker {outputs} {cache}",
    ]


@EVERY
def test_the_lock_is_baked_in(path: Path, tmp_path: Path) -> None:
    """Run the discovering step on a real project, with the real command."""
    machine = Machine(tmp_path)
    example = ROOT / "examples" / "marco-polo"
    for name in ("endpoint.toml", "pyproject.toml", "src"):
        copy = shutil.copytree if (example / name).is_dir() else shutil.copy
        copy(example / name, machine.root / "app" / name)
    machine.stand_in("python", f'exec "{sys.executable}" "$@"')
    (step,) = [step for step in shells_of(path) if "gen_worker.discovery" in step]
    app = machine.root / "app"
    machine.run(step, PYTHONPATH=f"{app}/src:{app}", HOME=str(tmp_path))
    assert 'name = "marco-polo"' in (app / ".tensorhub" / "endpoint.lock").read_text()


@EVERY
def test_the_entry_point_becomes_another_command(path: Path, tmp_path: Path) -> None:
    entry = json.loads(steps_of(path)[-1][1])
    command = [sys.executable, *entry[1:], "sh", "-c", "echo $0", "instead"]
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "instead\n"
