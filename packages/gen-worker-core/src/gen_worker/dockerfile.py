"""How a profile becomes an image: the Dockerfile to build, and the arguments it is built with.

Everything here is a pure function of the project; docs/dockerfile.md explains the four build modes.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

import msgspec

from gen_worker.manifest import IMAGE_LOCK_PATH
from gen_worker.problems import Problem
from gen_worker.project import BuildMode, ProjectError

if TYPE_CHECKING:
    from gen_worker.project import Profile, Project

__all__ = ["DEFAULT_PYTHON", "BuildPlan", "plan_build"]

DEFAULT_PYTHON = "3.12"

_PLATFORMS = {"x86": "linux/amd64", "arm64": "linux/arm64"}
_UV_IMAGE = "ghcr.io/astral-sh/uv:0.13"
# uv is mounted for single steps, so that the finished image has no package manager of ours in it.
_WITH_UV = f"""\
RUN --mount=from={_UV_IMAGE},source=/uv,target=/usr/local/bin/uv \\
    --mount=type=cache,target=/root/.cache/uv \\
    """
# The lock's versions bind, except those of torch and what it brings: the profile chooses these.
_PINS = """\
if [ -f uv.lock ]; then \\
        uv export --quiet --frozen --no-dev --no-hashes --no-emit-project --no-emit-local \\
            --prune torch --prune torchvision --prune torchaudio --output-file /tmp/pins.txt; \\
    else \\
        touch /tmp/pins.txt; \\
    fi"""
_CONTRACT = f"""\
RUN mkdir -p {os.path.dirname(IMAGE_LOCK_PATH)} \\
    && python -m gen_worker.discovery > {IMAGE_LOCK_PATH}
ENTRYPOINT ["python", "-m", "gen_worker.entrypoint"]
"""


class BuildPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is built for one profile."""

    profile: str
    mode: BuildMode
    platform: str
    """As `docker build --platform` takes it."""
    dockerfile: str | None
    """Generated text; None when the project's own Dockerfile is built."""
    build_args: dict[str, str] = {}
    """Passed to the project's own Dockerfile; a generated one needs none."""
    is_base_image_resolved: bool = False
    """Whether the platform adds `BASE_IMAGE`; a local build then uses the Dockerfile's default."""


def plan_build(project: Project, profile: Profile) -> BuildPlan:
    """Work out how one profile is built.

    Raises:
        ProjectError: There is no Dockerfile, and the profile does not say enough for one.
    """
    mode = project.build_mode(profile)
    return BuildPlan(
        profile=profile.name,
        mode=mode,
        platform=_PLATFORMS.get(profile.cpu_arch, "linux/amd64"),
        dockerfile=_generate(project, profile) if mode == "generated" else None,
        build_args=_build_args(profile, mode),
        is_base_image_resolved=mode == "managed",
    )


def _build_args(profile: Profile, mode: BuildMode) -> dict[str, str]:
    if mode == "generated":
        return {}
    given = {
        "BASE_IMAGE": profile.base_image if mode == "explicit" else None,
        "PYTHON_VERSION": profile.python,
        "TORCH_VERSION": profile.torch,
        "CUDA_VERSION": profile.cuda,
    }
    return {name: value for name, value in given.items() if value}


def _generate(project: Project, profile: Profile) -> str:
    _refuse_what_cannot_be_generated(project, profile)
    steps = [
        "# syntax=docker/dockerfile:1\n"
        f"# Profile {profile.name!r} of {project.endpoint_name!r}, "
        "written by `gen-worker build dockerfile`.",
        f"FROM {profile.base_image or _base_image(profile)}",
        _system_packages(profile),
        _environment(profile),
        "WORKDIR /app\nCOPY pyproject.toml uv.lock* ./",
        _install(profile),
        "COPY . .",
        _CONTRACT,
    ]
    return "\n".join(step for step in steps if step)


def _refuse_what_cannot_be_generated(project: Project, profile: Profile) -> None:
    if profile.os != "linux":
        reason = f"runs on {profile.os}, but only Linux images are generated"
        hint = "add a Dockerfile"
    elif not profile.base_image and not profile.has_version_hints:
        reason = "does not say what to build on, and there is no Dockerfile"
        hint = "add python (and torch, cuda), or base_image, or a Dockerfile"
    else:
        return
    message = f"profile {profile.name!r} {reason}"
    raise ProjectError(
        [Problem(code="no_dockerfile", message=message, hint=hint, file=project.file)]
    )


def _base_image(profile: Profile) -> str:
    """Return a Debian image with the profile's Python; `devel` is the one with compilers."""
    version = ".".join((profile.python or DEFAULT_PYTHON).split(".")[:2])
    return f"python:{version}{'' if profile.image_kind == 'devel' else '-slim'}-bookworm"


def _system_packages(profile: Profile) -> str:
    if not profile.system_dependencies:
        return ""
    packages = " ".join(shlex.quote(package) for package in profile.system_dependencies)
    return (
        "RUN apt-get update \\\n"
        f"    && apt-get install --yes --no-install-recommends {packages} \\\n"
        "    && rm -rf /var/lib/apt/lists/*"
    )


def _environment(profile: Profile) -> str:
    values = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": "/app/src:/app",
        "UV_SYSTEM_PYTHON": "1",
        "UV_BREAK_SYSTEM_PACKAGES": "1",
        "UV_COMPILE_BYTECODE": "1",
        "UV_LINK_MODE": "copy",
    }
    backend = _torch_backend(profile)
    if backend:
        values["UV_TORCH_BACKEND"] = backend
    return "ENV " + " \\\n    ".join(f"{name}={value}" for name, value in values.items())


def _torch_backend(profile: Profile) -> str:
    """Return which build of torch is installed; empty for the index's own choice, which is CUDA."""
    if profile.accelerator == "none":
        return "cpu"
    numbers = (profile.cuda or "").split(".")
    return f"cu{numbers[0]}{numbers[1]}" if len(numbers) > 1 else ""


def _install(profile: Profile) -> str:
    wanted = ["gen-worker", *profile.dependencies]
    if profile.torch:
        wanted.insert(1, _exactly("torch", profile.torch))
    requirements = " ".join(shlex.quote(requirement) for requirement in wanted)
    return (
        f"{_WITH_UV}{_PINS} \\\n"
        "    && uv pip install --requirement pyproject.toml --constraint /tmp/pins.txt \\\n"
        f"        {requirements}"
    )


def _exactly(package: str, version: str) -> str:
    """Return a requirement for a version of any precision: `2.12`, `2.12.x` or `2.12.1`."""
    numbers = [part for part in version.split(".") if part != "x"]
    return f"{package}=={'.'.join(numbers)}{'' if len(numbers) > 2 else '.*'}"
