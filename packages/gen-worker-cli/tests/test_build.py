"""`gen-worker build dockerfile`: what a profile is built with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cli

PROFILE = '[[build.profiles]]\nname = "{name}"\naccelerator = "cuda"\n{hints}\n'


def write(cli: Cli, *profiles: str, dockerfile: str = "") -> Path:
    head = 'schema_version = 1\nmain = "app"\nname = "painter"\n'
    (cli.folder / "endpoint.toml").write_text(head + "".join(profiles))
    if dockerfile:
        (cli.folder / "Dockerfile").write_text(dockerfile)
    return cli.folder


@pytest.mark.claims("build.generated")
def test_without_a_dockerfile_one_is_generated(cli: Cli) -> None:
    root = write(cli, PROFILE.format(name="gpu", hints='torch = "2.12.x"\ncuda = "12.6"'))
    done = cli("build", "dockerfile")
    assert done.code == 0
    assert done.stdout.startswith("# syntax=docker/dockerfile:1\n")
    assert "torch==2.12.*" in done.stdout
    assert done.stdout.endswith('ENTRYPOINT ["python", "-m", "gen_worker.entrypoint"]\n')
    assert "mode generated" in done.stderr
    assert f"docker build --platform linux/amd64 -t painter:gpu -f - {root}" in done.stderr
    elsewhere = cli("build", "dockerfile", "--config", str(root), project=root.parent)
    assert elsewhere.stdout == done.stdout


@pytest.mark.claims("build.own")
@pytest.mark.parametrize(
    ("hints", "mode", "arguments"),
    [
        ('python = "3.12"\ncuda = "12.6"', "managed", "PYTHON_VERSION=3.12 CUDA_VERSION=12.6"),
        ('base_image = "acme/base:1"', "explicit", "BASE_IMAGE=acme/base:1"),
        ("", "custom", ""),
    ],
)
def test_an_own_dockerfile_is_printed_with_its_arguments(
    cli: Cli, hints: str, mode: str, arguments: str
) -> None:
    write(cli, PROFILE.format(name="gpu", hints=hints), dockerfile="FROM scratch\n")
    done = cli("build", "dockerfile")
    assert (done.code, done.stdout) == (0, "FROM scratch\n")
    assert f"mode {mode}" in done.stderr
    passed = [word for word in done.stderr.split() if "=" in word]
    assert passed == arguments.split()
    assert ("the platform passes BASE_IMAGE" in done.stderr) == (mode == "managed")


@pytest.mark.claims("build.json")
def test_the_plan_as_json(cli: Cli) -> None:
    write(cli, PROFILE.format(name="gpu", hints='python = "3.12"'), dockerfile="FROM scratch\n")
    done = cli("build", "dockerfile", "--json")
    assert done.stderr == ""
    assert done.values == [
        {
            "profile": "gpu",
            "mode": "managed",
            "platform": "linux/amd64",
            "build_args": {"PYTHON_VERSION": "3.12"},
            "base_image_from_platform": True,
            "dockerfile": "FROM scratch\n",
        }
    ]


@pytest.mark.claims("build.profile")
def test_one_of_several_profiles_is_named(cli: Cli) -> None:
    write(
        cli,
        PROFILE.format(name="small gpu", hints='python = "3.12"'),
        PROFILE.format(name="gpu", hints='python = "3.13"'),
    )
    assert "python:3.13" in cli("build", "dockerfile", "--profile", "gpu").stdout
    assert "python:3.12" in cli("build", "dockerfile", "--profile", "small-gpu").stdout
    for words in ((), ("--profile", "cpu")):
        done = cli("build", "dockerfile", *words)
        assert (done.code, done.stdout) == (2, "")
        assert "small gpu, gpu" in done.stderr


@pytest.mark.claims("build.refusals")
@pytest.mark.parametrize(
    ("profiles", "words"),
    [
        ([], "are: none; add one"),
        ([PROFILE.format(name="gpu", hints="")], "does not say what to build on"),
        ([PROFILE.format(name="gpu", hints="pyton = 3")], "did you mean 'python'?"),
    ],
)
def test_what_cannot_be_built(cli: Cli, profiles: list[str], words: str) -> None:
    write(cli, *profiles)
    done = cli("build", "dockerfile")
    assert (done.code, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
