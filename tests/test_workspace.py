"""What holds for the checkout as a whole."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from ci.api import differences
from ci.lock import difference
from ci.workspace import ROOT, Package, examples, needs, packages, requirement_name

EXPECTED = {
    "gen-worker",
    "gen-worker-cli",
    "gen-worker-conversion",
    "gen-worker-core",
    "gen-worker-models",
    "gen-worker-runtime",
    "gen-worker-trainer",
}


def test_the_workspace_has_its_seven_distributions() -> None:
    assert packages().keys() == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_distribution_has_the_same_skeleton(name: str) -> None:
    path, parts = packages()[name].path, packages()[name].parts
    assert (path / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    for needed in ("README.md", "CHANGELOG.md", "changes", "tests"):
        assert (path / needed).exists(), f"{path / needed} is missing"
    assert (path / "public-names.txt").exists() == bool(parts)


def test_no_part_of_the_root_is_in_two_packages() -> None:
    parts = [part for package in packages().values() for part in package.parts]
    assert len(parts) == len(set(parts))


TEMPLATE = ROOT / "packages/gen-worker-cli/src/gen_worker/cli/template"
PROJECTS = {name: example.path / "pyproject.toml" for name, example in examples().items()}
PROJECTS["template"] = TEMPLATE / "pyproject.toml.tmpl"


@pytest.mark.parametrize("name", sorted(PROJECTS))
def test_a_project_to_copy_takes_this_release_and_none_before_it(name: str) -> None:
    project = tomllib.loads(PROJECTS[name].read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    ours = [r for r in map(Requirement, texts) if r.name in packages()]
    assert ours
    for requirement in ours:
        version = Version(packages()[requirement.name].version)
        assert version in requirement.specifier
        before = Version(f"{version.major}.{version.minor - 1}.999")
        assert before not in requirement.specifier, str(requirement)


def test_a_new_project_says_how_to_use_a_checkout() -> None:
    text = (TEMPLATE / "README.md.tmpl").read_text(encoding="utf-8")
    folders = re.findall(r"`(?:uv add --editable|pip install) CHECKOUT/(\S+)`", text)
    assert folders == ["packages/gen-worker", "packages/*"]
    assert packages()["gen-worker"].path == ROOT / folders[0]
    assert {path.name for path in ROOT.glob(folders[1])} == packages().keys()


def test_the_committed_lock_is_hashed_and_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pins = re.findall(r"^[a-z0-9].*?==.*?(?=^[a-z0-9]|\Z)", lock, flags=re.M | re.S)
    assert len(pins) > 50
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


def test_a_changed_lock_says_how_to_renew_it() -> None:
    assert difference("a==1\nb==1\n", "a==1\nb==2\n") == [
        "-b==1",
        "+b==2",
        "2 line(s) differ: run `nox -s lock -- --update` and commit the result",
    ]
    assert difference("a==1\n", "a==1\n") == []


def test_public_names_that_came_and_went_are_reported() -> None:
    assert differences("names.txt", ["a", "b"], ["b", "c"]) == [
        "names.txt: c is public and not listed",
        "names.txt: a is not public",
    ]


def test_what_a_package_needs_is_found_through_its_siblings() -> None:
    def package(name: str, *dependencies: str) -> Package:
        return Package(name, Path(), "1", dependencies)

    known = {
        "top": package("top", "middle>=1", "Base", "msgspec"),
        "middle": package("middle", "base[extra]>=1"),
        "base": package("base"),
    }
    assert {found.name for found in needs(known["top"], known)} == {"middle", "base"}


@pytest.mark.parametrize(
    ("requirement", "name"),
    [("Gen_Worker.core[images]>=1", "gen-worker-core"), ("msgspec", "msgspec")],
)
def test_requirements_begin_with_a_name(requirement: str, name: str) -> None:
    assert requirement_name(requirement) == name


def test_the_tests_refuse_a_gen_worker_from_elsewhere(tmp_path: Path) -> None:
    stray = tmp_path / "gen_worker"
    stray.mkdir()
    (stray / "__init__.py").touch()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_changes.py"]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"imported from outside this checkout: {str(stray)!r}" in run.stderr
    allowed = {**environment, "GEN_WORKER_TEST_INSTALLED": "1"}
    run = subprocess.run(command, cwd=ROOT, env=allowed, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
