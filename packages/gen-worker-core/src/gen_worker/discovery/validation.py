"""Is a project, or a lock, complete enough to be deployed?"""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from gen_worker.dockerfile import plan_build
from gen_worker.manifest import LOCK_VERSION, LockError, content_sha256, manifest_of
from gen_worker.names import slugify_name
from gen_worker.project import ENDPOINT_FILE, ProjectError, load_project
from gen_worker.spec import EndpointKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.project import Project

__all__ = ["EndpointValidationResult", "validate_endpoint", "validate_endpoint_lock"]

_ARCHETYPES = ("SerialWorker", "BatchedWorker")


class EndpointValidationResult(NamedTuple):
    """What stands in the way (`errors`), and what is worth a look (`warnings`)."""

    ok: bool
    errors: list[str]
    warnings: list[str]


def _result(errors: list[str], warnings: list[str]) -> EndpointValidationResult:
    return EndpointValidationResult(not errors, errors, warnings)


def validate_endpoint(
    root: str | os.PathLike[str], *, require_uv_lock: bool = False
) -> EndpointValidationResult:
    """Check the files of a project. Nothing is imported.

    Args:
        root: The project's directory.
        require_uv_lock: Count a missing uv.lock as an error; otherwise it is a warning.
    """
    folder = os.path.abspath(root)
    errors: list[str] = []
    warnings: list[str] = []
    try:
        project = load_project(os.path.join(folder, ENDPOINT_FILE))
    except ProjectError as error:
        errors += [str(problem) for problem in error.problems]
    else:
        errors += _build_errors(project)
        if not project.profiles:
            warnings.append(f"{ENDPOINT_FILE} has no [[build.profiles]]: the platform expects one")
    errors += _pyproject_errors(os.path.join(folder, "pyproject.toml"))
    if os.path.exists(os.path.join(folder, "requirements.txt")):
        errors.append("requirements.txt is not read: list dependencies in pyproject.toml")
    if not os.path.isfile(os.path.join(folder, "uv.lock")):
        missing = "there is no uv.lock: run `uv lock`"
        (errors if require_uv_lock else warnings).append(missing)
    return _result(errors, warnings)


def _build_errors(project: Project) -> Iterator[str]:
    if not project.profiles and not project.has_dockerfile:
        yield "there is no Dockerfile and no [[build.profiles]] to generate one from: add either"
    for profile in project.profiles:
        try:
            plan_build(project, profile)
        except ProjectError as error:
            yield from map(str, error.problems)


def _pyproject_errors(path: str) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            project: Any = tomllib.load(file).get("project", {})
    except FileNotFoundError:
        yield "there is no pyproject.toml: create one with [project] name and dependencies"
        return
    except (OSError, ValueError, RecursionError) as error:
        yield f"pyproject.toml cannot be read, {error}"
        return
    name = project.get("name") if isinstance(project, dict) else None
    if not isinstance(name, str) or not name.strip():
        yield 'pyproject.toml has no [project] name: add name = "my-endpoint"'
    elif not slugify_name(name):
        yield f"[project] name {name!r} leaves nothing to name the endpoint with: use a-z, 0-9"


def validate_endpoint_lock(lock: Mapping[str, Any]) -> EndpointValidationResult:
    """Check an endpoint.lock's table; all mistakes are listed.

    Function-shaped entries need neither class nor archetype.
    """
    if "functions" not in lock:
        return _result(["the lock has no functions: build it anew"], [])
    try:
        manifest_of(lock)
    except LockError as error:
        return _result([problem.message for problem in error.problems], [])
    errors: list[str] = []
    warnings: list[str] = []
    version = lock.get("lock_version")
    if version is not None and not 1 <= version <= LOCK_VERSION:
        errors.append(f"lock_version {version} is unknown")
    if lock.get("content_sha256", "") not in ("", content_sha256(lock)):
        errors.append("content_sha256 does not match the content: the lock was edited")
    holders: dict[str, str] = {}
    for index, entry in enumerate(lock["functions"]):
        errors += _entry_errors(entry, index, holders)
        if entry.get("runtime") and entry.get("archetype") == "SerialWorker":
            warnings.append(f"{entry['name']!r} has a runtime, but is a SerialWorker")
    if not lock["functions"]:
        warnings.append("the lock has no functions")
    return _result(errors, warnings)


def _entry_errors(entry: Mapping[str, Any], index: int, holders: dict[str, str]) -> Iterator[str]:
    name = entry["name"]
    where = f"functions[{index}] {name!r}"
    holder = ".".join(
        str(entry[key]) for key in ("module", "class_name", "python_name") if entry.get(key)
    )
    if not slugify_name(name):
        yield f"{where}: nothing routable is left of the name"
    elif slugify_name(name) in holders:
        yield f"{where}: {holders[slugify_name(name)]} and {holder} have the same route"
    holders.setdefault(slugify_name(name), holder)
    is_class = any(entry.get(key) for key in ("class_name", "archetype"))
    if not is_class:
        return
    for key in ("class_name", "archetype", "kind"):
        if not entry.get(key):
            yield f"{where}: {key} is missing"
    if entry.get("archetype", "SerialWorker") not in _ARCHETYPES:
        yield f"{where}: unknown archetype {entry['archetype']!r}"
    if entry.get("kind") and entry["kind"] not in get_args(EndpointKind):
        yield f"{where}: unknown kind {entry['kind']!r}"
