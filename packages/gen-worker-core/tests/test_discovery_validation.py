"""Is a project, or a lock, complete enough to be deployed?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import gen_worker
from gen_worker.discovery import validate_endpoint, validate_endpoint_lock

if TYPE_CHECKING:
    from pathlib import Path

TOML = 'schema_version = 1\nmain = "painter.app"\n'
PROFILE = '[[build.profiles]]\nname = "cpu"\naccelerator = "none"\n'
COMPLETE = {
    "endpoint.toml": TOML + PROFILE + 'python = "3.12"\n',
    "pyproject.toml": '[project]\nname = "painter"\n',
    "uv.lock": "",
}


def validate(root: Path, files: dict[str, str], **options: bool) -> tuple[list[str], list[str]]:
    for name, text in files.items():
        (root / name).write_text(text)
    ok, errors, warnings = validate_endpoint(root, **options)
    assert ok == (not errors)
    return errors, warnings


def test_a_project_without_dockerfile_is_complete(tmp_path: Path) -> None:
    assert validate(tmp_path, COMPLETE) == ([], [])
    assert gen_worker.validate_endpoint(tmp_path).ok


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoint.toml": None}, "there is no endpoint.toml"),
        ({"endpoint.toml": "schema_version = 2"}, "schema_version = 2 is not 1"),
        ({"endpoint.toml": TOML}, "no Dockerfile and no [[build.profiles]]"),
        ({"endpoint.toml": TOML + PROFILE}, "profile 'cpu' does not say what to build on"),
        ({"pyproject.toml": None}, "there is no pyproject.toml"),
        ({"pyproject.toml": "[tool]"}, "has no [project] name"),
        ({"pyproject.toml": "project = 3"}, "has no [project] name"),
        ({"pyproject.toml": '[project]\nname = "!!"'}, "leaves nothing"),
        ({"pyproject.toml": "x = "}, "cannot be read"),
        ({"requirements.txt": ""}, "list dependencies in pyproject.toml"),
    ],
)
def test_incomplete(tmp_path: Path, changes: dict[str, str | None], words: str) -> None:
    files = {k: v for k, v in {**COMPLETE, **changes}.items() if v is not None}
    errors, _ = validate(tmp_path, files)
    assert any(words in error for error in errors)


def test_a_dockerfile_needs_neither_profiles_nor_hints(tmp_path: Path) -> None:
    errors, warnings = validate(
        tmp_path, {**COMPLETE, "endpoint.toml": TOML, "Dockerfile": "FROM scratch"}
    )
    assert errors == []
    assert warnings == ["endpoint.toml has no [[build.profiles]]: the platform expects one"]


def test_uv_lock_is_asked_for(tmp_path: Path) -> None:
    files = {k: v for k, v in COMPLETE.items() if k != "uv.lock"}
    assert validate(tmp_path, files) == ([], ["there is no uv.lock: run `uv lock`"])
    assert validate(tmp_path, {}, require_uv_lock=True)[0] == ["there is no uv.lock: run `uv lock`"]


def entry(**keys: object) -> dict[str, Any]:
    return {"name": "say", "module": "acme", "python_name": "say", **keys}


CLASS = {"class_name": "Speaker", "archetype": "SerialWorker", "kind": "inference"}


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        ({}, "no functions"),
        ({"functions": 3}, "not an endpoint.lock"),
        ({"functions": [], "lock_version": 9}, "lock_version is 9"),
        ({"functions": [], "lock_version": -1}, "lock_version -1"),
        ({"functions": [], "content_sha256": "00"}, "the lock was edited"),
        ({"functions": [entry(name="!!")]}, "nothing routable"),
        ({"functions": [entry(), entry(python_name="b")]}, "acme.say and acme.b have the same"),
        ({"functions": [entry(**CLASS | {"archetype": ""})]}, "archetype is missing"),
        ({"functions": [entry(**CLASS | {"archetype": "Odd"})]}, "unknown archetype 'Odd'"),
        ({"functions": [entry(**CLASS | {"kind": "odd"})]}, "unknown kind 'odd'"),
    ],
)
def test_wrong_lock(lock: dict[str, Any], words: str) -> None:
    ok, errors, _ = validate_endpoint_lock(lock)
    assert not ok
    assert any(words in error for error in errors)


def test_all_mistakes_of_a_lock_are_listed() -> None:
    lock = {"functions": [entry(name="!!"), entry(**CLASS | {"kind": "odd", "archetype": "x"})]}
    assert len(validate_endpoint_lock(lock).errors) == 3


def test_function_entries_need_no_class() -> None:
    assert validate_endpoint_lock({"functions": [entry()]}) == (True, [], [])


def test_odd_but_usable_locks_are_warned_about() -> None:
    assert validate_endpoint_lock({"functions": []}).warnings == ["the lock has no functions"]
    lock = {"functions": [entry(**CLASS, runtime="vllm")]}
    assert validate_endpoint_lock(lock).warnings == ["'say' has a runtime, but is a SerialWorker"]
