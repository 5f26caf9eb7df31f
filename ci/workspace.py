"""What the checks know about the workspace: its packages, read from their `pyproject.toml`."""

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
IMPORT_ROOT = "gen_worker"


class Package(NamedTuple):
    """One project of the workspace: a distribution, or an example."""

    name: str
    path: Path
    version: str
    dependencies: tuple[str, ...]

    @property
    def source(self) -> Path:
        return self.path / "src" / IMPORT_ROOT

    @property
    def parts(self) -> tuple[str, ...]:
        """The modules right below `gen_worker` that this package ships."""
        if not self.source.is_dir():
            return ()
        return tuple(sorted(entry.stem for entry in self.source.iterdir() if _is_module(entry)))

    @property
    def test_bytes(self) -> int:
        """How much test code there is: a guess at how long it runs."""
        return sum(path.stat().st_size for path in self.path.glob("tests/**/*.py"))


def packages(root: Path = ROOT) -> dict[str, Package]:
    """Read every package of the workspace, by name."""
    return _read_all(root, "packages/*/pyproject.toml")


def examples(root: Path = ROOT) -> dict[str, Package]:
    """Read every example's project, by name."""
    return _read_all(root, "examples/*/pyproject.toml")


def requirement_name(requirement: str) -> str:
    """Return the normalised project name a requirement begins with."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    if match is None:
        raise ValueError(f"{requirement!r} does not begin with a project name")
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def needs(package: Package, among: dict[str, Package]) -> list[Package]:
    """Return the packages that this one requires, directly or not, each once."""
    seen: dict[str, Package] = {}
    waiting = [package]
    while waiting:
        names = map(requirement_name, waiting.pop().dependencies)
        new = [among[name] for name in names if name in among and name not in seen]
        seen.update({found.name: found for found in new})
        waiting += new
    return list(seen.values())


def report(check: str, problems: Sequence[str]) -> int:
    """Print all problems of a check, or that there is none, and return its exit status."""
    for problem in problems:
        print(f"{check}: {problem}")
    print(f"{check}: {len(problems)} problem(s)" if problems else f"{check}: ok")
    return 1 if problems else 0


def uv() -> str:
    """Return the uv that runs us (uv tells its children), or the one on the path."""
    return os.environ.get("UV", "uv")


def _read_all(root: Path, pattern: str) -> dict[str, Package]:
    found = [_read(path) for path in sorted(root.glob(pattern))]
    return {package.name: package for package in found}


def _read(pyproject: Path) -> Package:
    project = tomllib.loads(pyproject.read_text())["project"]
    return Package(
        name=project["name"],
        path=pyproject.parent,
        version=project["version"],
        dependencies=tuple(project.get("dependencies", ())),
    )


def _is_module(entry: Path) -> bool:
    if entry.name.startswith("_"):
        return False
    return entry.suffix == ".py" or (entry.is_dir() and any(entry.rglob("*.py")))
