"""Discovery as a library: entries and manifests of a project, built in this process.

The module itself can be called too: it shares its name with `gen_worker.discovery.discover`.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from gen_worker.discovery import walk
from gen_worker.discovery.checks import project_problems
from gen_worker.discovery.lock import function_entries, lock_table
from gen_worker.project import ENDPOINT_FILE, Project, load_project
from gen_worker.project.diagnosis import with_lines
from gen_worker.settings import CoreSettings, load
from gen_worker.version import sdk_version

__all__ = ["discover_functions", "discover_manifest", "load_endpoint_toml"]

Root = str | os.PathLike[str]


def load_endpoint_toml(root: Root | None = None) -> Project:
    """Read a project's endpoint.toml.

    Args:
        root: The project's directory or its endpoint.toml; by default the file that the setting
            `ENDPOINT_TOML_PATH` names, else the current directory.

    Raises:
        ProjectError: The file is missing or wrong, with all its mistakes.
    """
    return load_project(root or load(CoreSettings).endpoint_toml_path or ".")


def discover_functions(
    root: Root | None = None, *, main_module: str | None = None
) -> list[dict[str, Any]]:
    """Import a project in this process and return the lock's entry of each function.

    Args:
        root: The project's directory; default the current one.
        main_module: What to import instead of endpoint.toml's `main`. Without either, the modules
            that apply a decorator are found by their syntax.

    Raises:
        ProjectError: endpoint.toml is wrong.
        DiscoveryError: The project cannot be imported, or a function in it is wrong.
    """
    folder = os.path.abspath(root or ".")
    project: Project | None = None
    mains: str | list[str] | None = main_module
    if mains is None and os.path.exists(os.path.join(folder, ENDPOINT_FILE)):
        project = load_project(folder)
        mains = project.main
    if mains is None:
        from gen_worker.discovery.scanning import modules_with_decorators

        mains = modules_with_decorators(folder)
    return _entries(walk.discover(folder, mains), project)


def discover_manifest(root: Root | None = None) -> dict[str, Any]:
    """Import a project in this process and return its lock as a table.

    Raises:
        ProjectError: endpoint.toml is missing or wrong.
        DiscoveryError: The project cannot be imported, or a function in it is wrong.
    """
    project = load_endpoint_toml(root)
    entries = _entries(walk.discover(project.root, project.main), project)
    return lock_table(project, entries, sdk_version())


def _entries(discovery: walk.Discovery, project: Project | None) -> list[dict[str, Any]]:
    functions = discovery.raise_if_wrong().functions
    entries, problems = function_entries(functions, project)
    if project is not None:
        problems += with_lines(project_problems(project, functions), project.file)
    walk.Discovery(functions=functions, problems=tuple(problems)).raise_if_wrong()
    return entries


class _CallableModule(ModuleType):
    """Forwards calls, so that importing this module does not break `discover(root, main)`."""

    __call__ = staticmethod(walk.discover)


sys.modules[__name__].__class__ = _CallableModule
