"""Check the built wheels against each other and against the sources they were built from.

Usage: python -m ci.wheels DIST
"""

import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from ci.workspace import IMPORT_ROOT, Package, packages, report, requirement_name

META = "gen-worker"
CORE = "gen-worker-core"


class Wheel(NamedTuple):
    """What the checks look at in one wheel."""

    package: Package
    paths: frozenset[str]
    requirements: tuple[Requirement, ...]


def main(dist: str) -> int:
    known = packages()
    wheels = [_read(path, known) for path in sorted(Path(dist).glob("*.whl"))]
    problems = [
        f"{name} has no wheel in {dist}" for name in known.keys() - {w.package.name for w in wheels}
    ]
    problems += shared_paths(wheels)
    for wheel in wheels:
        problems += wrong_contents(wheel)
        problems += wrong_siblings(wheel, known)
    return report("wheels", problems)


def shared_paths(wheels: list[Wheel]) -> list[str]:
    """Report each path which more than one wheel would install."""
    owners: dict[str, list[str]] = defaultdict(list)
    for wheel in wheels:
        for path in wheel.paths:
            owners[path].append(wheel.package.name)
    return [
        f"{path} is in {' and '.join(names)}: one distribution must own it"
        for path, names in sorted(owners.items())
        if len(names) > 1
    ]


def wrong_contents(wheel: Wheel) -> list[str]:
    """Report what is missing from a wheel or has no business in it."""
    name = wheel.package.name
    expected = {*_sources(wheel.package), *_markers(wheel)}
    shipped = {path for path in wheel.paths if ".dist-info/" not in path}
    problems = [f"{name} ships {path}, which it must not" for path in sorted(shipped - expected)]
    problems += [f"{name} does not ship {path}" for path in sorted(expected - shipped)]
    if not any(re.search(r"\.dist-info/licenses/LICENSE$", path) for path in wheel.paths):
        problems.append(f"{name} ships no LICENSE")
    return problems


def wrong_siblings(wheel: Wheel, known: dict[str, Package]) -> list[str]:
    """Report the ranges that do not contain the sibling's version, which uv never checks."""
    problems = []
    for requirement in wheel.requirements:
        sibling = known.get(requirement_name(requirement.name))
        if sibling is None or sibling is wheel.package:
            continue
        if not requirement.specifier.contains(sibling.version):
            problems.append(
                f"{wheel.package.name} requires {requirement}, the workspace has {sibling.version}"
            )
        if wheel.package.name == META and not requirement.extras and not _is_pin(requirement):
            problems.append(f"{META} must pin {requirement.name} with ==, not {str(requirement)!r}")
    return problems


def _sources(package: Package) -> Iterator[str]:
    for path in package.source.rglob("*"):
        relative = path.relative_to(package.source.parent).as_posix()
        at_root = path.parent == package.source and path.stem == "__init__"
        if path.is_file() and "__pycache__" not in path.parts:
            if not at_root or (package.name == CORE and path.suffix == ".py"):
                yield relative


def _markers(wheel: Wheel) -> set[str]:
    """Core's `py.typed` covers the root and its modules, every other package brings one a part."""
    if wheel.package.name == CORE:
        return {f"{IMPORT_ROOT}/py.typed"}
    parts = (wheel.package.source / part for part in wheel.package.parts)
    return {f"{IMPORT_ROOT}/{part.name}/py.typed" for part in parts if part.is_dir()}


def _is_pin(requirement: Requirement) -> bool:
    return [specifier.operator for specifier in requirement.specifier] == ["=="]


def _read(path: Path, known: dict[str, Package]) -> Wheel:
    with zipfile.ZipFile(path) as archive:
        paths = frozenset(archive.namelist())
        metadata = next(name for name in paths if name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(metadata).decode())
    return Wheel(
        package=known[requirement_name(headers["Name"])],
        paths=paths,
        requirements=tuple(Requirement(line) for line in headers.get_all("Requires-Dist", [])),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
