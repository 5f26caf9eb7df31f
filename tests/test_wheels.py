"""What the shape check says about wheels that do not fit each other."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ci.wheels import Wheel, shared_paths, wrong_contents, wrong_siblings
from ci.workspace import Package

LICENSE = "gen_worker_models-0.1.0.dist-info/licenses/LICENSE"


def package(name: str, path: Path = Path(), version: str = "0.1.0") -> Package:
    return Package(name, path, version, ())


def wheel(name: str, *paths: str, requires: str = "", path: Path = Path()) -> Wheel:
    requirements = tuple(map(Requirement, filter(None, requires.split(","))))
    return Wheel(package(name, path), frozenset(paths), requirements)


def test_a_path_in_two_wheels_is_reported() -> None:
    core = wheel("gen-worker-core", "gen_worker/py.typed", "gen_worker/io.py")
    models = wheel("gen-worker-models", "gen_worker/py.typed", "gen_worker/models/refs.py")
    (problem,) = shared_paths([core, models])
    assert problem.startswith("gen_worker/py.typed is in gen-worker-core and gen-worker-models")


@pytest.mark.parametrize(
    ("owner", "requirement", "problems"),
    [
        ("gen-worker-models", "gen-worker-core>=0.1", 0),
        ("gen-worker-models", "gen-worker-core>=0.2", 1),
        ("gen-worker-models", "msgspec>=99", 0),
        ("gen-worker", "gen-worker-core==0.1.0", 0),
        ("gen-worker", "gen-worker-core>=0.1", 1),
        ("gen-worker", "gen-worker-core[images]; extra == 'images'", 0),
    ],
)
def test_ranges_contain_the_siblings_and_the_set_is_pinned(
    owner: str, requirement: str, problems: int
) -> None:
    known = {name: package(name) for name in ("gen-worker", "gen-worker-core", "gen-worker-models")}
    candidate = wheel(owner, requires=requirement)
    assert len(wrong_siblings(candidate._replace(package=known[owner]), known)) == problems


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "src" / "gen_worker"
    (root / "models").mkdir(parents=True)
    for path in ("__init__.pyi", "models/__init__.py", "models/refs.py", "models/py.typed"):
        (root / path).touch()
    return tmp_path


CONTENTS = ("gen_worker/models/__init__.py", "gen_worker/models/refs.py", LICENSE)


def test_a_complete_wheel_is_no_problem(source: Path) -> None:
    complete = wheel("gen-worker-models", *CONTENTS, "gen_worker/models/py.typed", path=source)
    assert wrong_contents(complete) == []


def test_what_is_missing_and_what_is_too_much_is_reported(source: Path) -> None:
    wrong = wheel("gen-worker-models", *CONTENTS[1:-1], "gen_worker/__init__.pyi", path=source)
    assert sorted(wrong_contents(wrong)) == [
        "gen-worker-models does not ship gen_worker/models/__init__.py",
        "gen-worker-models does not ship gen_worker/models/py.typed",
        "gen-worker-models ships gen_worker/__init__.pyi, which it must not",
        "gen-worker-models ships no LICENSE",
    ]
