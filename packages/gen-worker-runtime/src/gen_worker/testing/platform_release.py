"""A release of functions that are in the test's own process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.discovery import discover
from gen_worker.discovery.lock import function_entries, lock_table
from gen_worker.manifest import dump_lock, manifest_of
from gen_worker.project import ENDPOINT_FILE, Project, load_project
from gen_worker.testing.tester import functions_in
from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.manifest import Manifest
    from gen_worker.spec import FunctionSpec

__all__ = ["ENDPOINT", "LocalRelease", "release_of"]

ENDPOINT = "test"
"""Name of an endpoint that has no project."""


class LocalRelease(NamedTuple):
    """What is published, and what its workers run."""

    project: str
    """The folder that is published."""
    functions: tuple[FunctionSpec, ...]
    lock: bytes
    manifest: Manifest


def release_of(target: Any, folder: str) -> LocalRelease:
    """Return a release of a project, or of functions that a test has defined.

    Args:
        target: The project's folder as text or a path; or a module, something decorated, or several
            of them.
        folder: Empty; becomes the project of functions that have none.

    Raises:
        ProjectError: The project's endpoint.toml is wrong.
        DiscoveryError: The project cannot be imported, or a function in it is wrong.
        ValueError: There is no function in `target`.
    """
    if isinstance(target, (str, os.PathLike)):
        project = load_project(target)
        functions: Sequence[FunctionSpec] = (
            discover(project.root, project.main).raise_if_wrong().functions
        )
    else:
        functions = functions_in(target)
        project = _project_of(functions, folder)
    if not functions:
        raise ValueError(f"{target!r} defines no function: decorate one first")
    entries, problems = function_entries(functions, project)
    if problems:
        raise ValueError("; ".join(problem.message for problem in problems))
    table = lock_table(project, entries, sdk_version())
    lock = dump_lock(table).encode()
    return LocalRelease(project.root, tuple(functions), lock, manifest_of(table))


def _project_of(functions: Sequence[FunctionSpec], folder: str) -> Project:
    """Write the endpoint.toml of functions that are in no project."""
    main = functions[0].module if functions else ""
    file = os.path.join(folder, ENDPOINT_FILE)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(f'name = "{ENDPOINT}"\nmain = "{main}"\n')
    return Project(root=folder, file=file, main=main, name=ENDPOINT)
