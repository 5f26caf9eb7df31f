"""What is built for a profile, and that every Dockerfile we ship keeps the image contract."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gen_worker.dockerfile import BuildPlan, plan_build
from gen_worker.project import ProjectError, load_project

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    WriteProject = Callable[[Mapping[str, str]], Path]

REPOSITORY = Path(__file__).parents[3]
HEAD = 'schema_version = 1\nmain = "painter.app"\nname = "painter"\n'


def plan(write_project: WriteProject, profile: str, *, dockerfile: bool = False) -> BuildPlan:
    files = {"endpoint.toml": f'{HEAD}[[build.profiles]]\nname = "p"\n{profile}'}
    if dockerfile:
        files["Dockerfile"] = "FROM scratch\n"
    project = load_project(write_project(files))
    return plan_build(project, project.profiles[0])


def instructions(text: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions and their arguments, continued lines joined."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def shell_of(arguments: str) -> str:
    return re.sub(r"^(\s*--mount=\S+)+\s*", "", arguments)


def check_contract(text: str) -> None:
    """Check the three points an image has to fulfil, and that the shell parses every step."""
    steps = instructions(text)
    assert steps[-1] == ("ENTRYPOINT", '["python", "-m", "gen_worker.entrypoint"]')
    installs = [index for index, (_, step) in enumerate(steps) if "uv pip install" in step]
    assert "gen-worker" in shlex.split(shell_of(steps[installs[-1]][1]))
    sources = steps.index(("COPY", ". ."))
    (lock,) = [index for index, (_, step) in enumerate(steps) if "gen_worker.discovery" in step]
    assert steps[lock] == (
        "RUN",
        "mkdir -p /app/.tensorhub "
        "&& python -m gen_worker.discovery > /app/.tensorhub/endpoint.lock",
    )
    assert installs[-1] < sources < lock < len(steps) - 1
    assert [step for name, step in steps[:lock] if name == "WORKDIR"][-1] == "/app"
    for name, step in steps:
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", shell_of(step)], check=True)


@pytest.mark.parametrize(
    ("profile", "base", "words"),
    [
        ('accelerator = "none"\npython = "3.13"', "python:3.13-slim-bookworm", ["BACKEND=cpu"]),
        (
            'accelerator = "cuda"\ntorch = "2.12.x"\ncuda = "12.6"',
            "python:3.12-slim-bookworm",
            ["UV_TORCH_BACKEND=cu126", "'torch==2.12.*'"],
        ),
        ('accelerator = "cuda"\ntorch = "2.12.1"', "python:3.12-slim-bookworm", ["torch==2.12.1"]),
        (
            'accelerator = "cuda"\npython = "3.12.4"\nimage_kind = "devel"',
            "python:3.12-bookworm",
            [],
        ),
        (
            'accelerator = "cuda"\nbase_image = "pytorch/pytorch:2.12.0"',
            "pytorch/pytorch:2.12.0",
            [],
        ),
        (
            'accelerator = "none"\npython = "3.12"\n'
            'dependencies = ["pillow>=11 ; python_version < \'3.14\'", "x[y]"]\n'
            'system_dependencies = ["ffmpeg", "libgl1=1.7.0-1"]',
            "python:3.12-slim-bookworm",
            ["--no-install-recommends ffmpeg libgl1=1.7.0-1", "'x[y]'"],
        ),
    ],
)
def test_generated(write_project: WriteProject, profile: str, base: str, words: list[str]) -> None:
    built = plan(write_project, profile)
    assert (built.mode, built.build_args) == ("generated", {})
    assert built.dockerfile is not None
    assert ("FROM", base) in instructions(built.dockerfile)
    assert all(word in built.dockerfile for word in words)
    assert built.dockerfile == plan(write_project, profile).dockerfile
    check_contract(built.dockerfile)


def test_requirements_reach_the_installer_as_they_were_written(
    write_project: WriteProject,
) -> None:
    odd = "x ; python_version < '3.14' and platform_machine != \"$HOME `id` $(id)\""
    hints = 'accelerator = "none"\npython = "3.12"\n'
    built = plan(write_project, f"{hints}dependencies = ['''{odd}''']")
    assert built.dockerfile is not None
    (install,) = [s for _, s in instructions(built.dockerfile) if "uv pip install" in s]
    assert odd in shlex.split(shell_of(install))


@pytest.mark.parametrize(
    ("profile", "mode", "arguments"),
    [
        (
            'python = "3.12"\ntorch = "2.12.x"\ncuda = "12.6"',
            "managed",
            {"PYTHON_VERSION": "3.12", "TORCH_VERSION": "2.12.x", "CUDA_VERSION": "12.6"},
        ),
        (
            'base_image = "acme/base:1"\npython = "3.12"',
            "explicit",
            {"BASE_IMAGE": "acme/base:1", "PYTHON_VERSION": "3.12"},
        ),
        ("", "custom", {}),
    ],
)
def test_own_dockerfile(
    write_project: WriteProject, profile: str, mode: str, arguments: dict[str, str]
) -> None:
    built = plan(write_project, 'accelerator = "cuda"\n' + profile, dockerfile=True)
    assert (built.mode, built.dockerfile, built.build_args) == (mode, None, arguments)
    assert built.is_base_image_resolved == (mode == "managed")


def test_the_platform_follows_the_processor(write_project: WriteProject) -> None:
    python = 'accelerator = "none"\npython = "3.12"\n'
    assert plan(write_project, python).platform == "linux/amd64"
    assert plan(write_project, python + 'cpu_arch = "arm64"').platform == "linux/arm64"


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ('accelerator = "cuda"', "does not say what to build on"),
        ('accelerator = "none"\npython = "3.12"\nos = "windows"', "only Linux images"),
    ],
)
def test_what_cannot_be_generated(write_project: WriteProject, profile: str, words: str) -> None:
    with pytest.raises(ProjectError, match=words) as caught:
        plan(write_project, profile)
    assert [problem.code for problem in caught.value.problems] == ["no_dockerfile"]


# ---- the shared image and the documented one


def test_the_shared_image_keeps_the_contract() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    check_contract(text)
    steps = instructions(text)
    assert [step for name, step in steps if name == "ARG"] == [
        "PYTHON_VERSION=3.12",
        "UV_TORCH_BACKEND=cu126",
        "TORCH_SPEC='~=2.11.0'",
    ]
    assert ("FROM", "ghcr.io/astral-sh/uv:python${PYTHON_VERSION}-bookworm-slim") in steps
    assert all(name != "USER" for name, _ in steps)  # /outputs must be writable


@pytest.mark.parametrize("spec", ["~=2.11.0", ">=2.9,<3"])
def test_the_shared_image_passes_its_arguments_on(tmp_path: Path, spec: str) -> None:
    """Run the installing step with a stand-in for uv that writes down what it was told."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\necho "$@" >> "$LOG"\n[ "$1" = export ] && touch pins.txt || true\n')
    uv.chmod(0o755)
    steps = instructions((REPOSITORY / "Dockerfile").read_text())
    (step,) = [shell_of(step) for _, step in steps if "uv pip install" in step]
    step = step.replace("/tmp/", f"{tmp_path}/")
    (tmp_path / "uv.lock").write_text("")
    env = {
        "PATH": f"{uv.parent}:/usr/bin:/bin",
        "LOG": str(tmp_path / "log"),
        "TORCH_SPEC": spec,
        "UV_TORCH_BACKEND": "cu128",
    }
    subprocess.run(["sh", "-e", "-c", step], cwd=tmp_path, env=env, check=True)
    export, install = (tmp_path / "log").read_text().splitlines()
    assert export.startswith("export --quiet --frozen")
    assert "--torch-backend cu128" in install
    assert f"--constraint {tmp_path}/torch.txt" in install
    assert (tmp_path / "torch.txt").read_text() == f"torch{spec}\n"


def test_the_documented_dockerfile_keeps_the_contract() -> None:
    page = (REPOSITORY / "docs" / "dockerfile.md").read_text()
    example = re.findall(r"```dockerfile\n(ARG BASE_IMAGE.*?)```", page, re.DOTALL)[0]
    steps = instructions(example)
    assert steps[0][0] == "ARG"
    assert [step for name, step in steps if name == "FROM"][-1] == "${BASE_IMAGE}"
    assert steps[-1] == ("ENTRYPOINT", '["python", "-m", "gen_worker.entrypoint"]')
    assert "gen_worker.discovery > /app/.tensorhub/endpoint.lock" in steps[-2][1]
