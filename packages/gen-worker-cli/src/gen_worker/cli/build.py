"""Print the Dockerfile that a profile of this project is built with.

Without a Dockerfile of your own one is generated from endpoint.toml; with one, it is printed as it
is. How to build it, and with which arguments, is told on stderr.

  gen-worker build dockerfile --profile gpu | docker build -f - .
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from gen_worker.cli.failures import UsageError

if TYPE_CHECKING:
    import argparse

    from gen_worker.dockerfile import BuildPlan
    from gen_worker.project import Profile, Project

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("dockerfile",), help="what to print")
    parser.add_argument(
        "--config",
        metavar="PATH",
        default=".",
        help="the project's folder or its endpoint.toml (default: the current folder)",
    )
    parser.add_argument(
        "--profile", metavar="NAME", help="which profile; may be left out when there is only one"
    )
    parser.add_argument(
        "--json", action="store_true", help="print profile, mode, arguments and text as JSON"
    )


def main(args: argparse.Namespace) -> int:
    from gen_worker.dockerfile import plan_build
    from gen_worker.project import load_project

    project = load_project(args.config)
    plan = plan_build(project, _choose(project, args.profile))
    text = _own_dockerfile(project) if plan.dockerfile is None else plan.dockerfile
    if args.json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(_document(plan, text)).decode() + "\n")
        return 0
    sys.stdout.write(text)
    print(f"profile {plan.profile!r} is built in mode {plan.mode}; here:", file=sys.stderr)
    print(f"  {_command(project, plan)}", file=sys.stderr)
    if plan.is_base_image_resolved:
        print(
            "the platform passes BASE_IMAGE; a local build takes the Dockerfile's default",
            file=sys.stderr,
        )
    return 0


def _choose(project: Project, name: str | None) -> Profile:
    from gen_worker.names import slugify_name

    names = [profile.name for profile in project.profiles]
    listed = ", ".join(names) or "none"
    if name is None:
        if len(names) == 1:
            return project.profiles[0]
        remedy = "choose one with --profile" if names else "add one"
        raise UsageError(f"the profiles of {project.file} are: {listed}; {remedy}")
    for profile in project.profiles:
        if slugify_name(profile.name) == slugify_name(name):
            return profile
    raise UsageError(f"no profile {name!r} in {project.file}; there are: {listed}")


def _own_dockerfile(project: Project) -> str:
    try:
        with open(os.path.join(project.root, "Dockerfile"), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the project's Dockerfile cannot be read, {error}") from error


def _document(plan: BuildPlan, text: str) -> dict[str, Any]:
    return {
        "profile": plan.profile,
        "mode": plan.mode,
        "platform": plan.platform,
        "build_args": plan.build_args,
        "base_image_from_platform": plan.is_base_image_resolved,
        "dockerfile": text,
    }


def _command(project: Project, plan: BuildPlan) -> str:
    """Return what builds the image on this machine, ready for a shell."""
    import shlex

    from gen_worker.names import slugify_name

    tag = f"{project.endpoint_name}:{slugify_name(plan.profile)}"
    words = ["docker", "build", "--platform", plan.platform, "-t", tag]
    for name, value in plan.build_args.items():
        words += ["--build-arg", f"{name}={value}"]
    if plan.dockerfile is None:
        return shlex.join([*words, project.root])
    own = ["gen-worker", "build", "dockerfile", "--config", project.file, "--profile", plan.profile]
    return f"{shlex.join(own)} | {shlex.join([*words, '-f', '-', project.root])}"
