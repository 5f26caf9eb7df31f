"""From `--config` / `--module` to the functions of the author's project."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.cli.failures import UsageError
from gen_worker.errors import UnknownFunctionError
from gen_worker.names import slugify_name

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from gen_worker.project import Project
    from gen_worker.spec import FunctionSpec

__all__ = ["Endpoint", "find_function", "named", "open_endpoint"]

_CONFIG = "endpoint.toml"


class Endpoint(NamedTuple):
    """An author's project, imported."""

    root: str
    """Absolute folder of the project."""
    main: str
    name: str
    """From endpoint.toml, else from pyproject.toml or `main`."""
    functions: tuple[FunctionSpec, ...]
    project: Project | None = None
    """None for `--module`, which reads no endpoint.toml."""


def open_endpoint(args: argparse.Namespace) -> Endpoint:
    """Import the project that `--config` and `--module` point at.

    The author's code runs here: divert stdout first (`gen_worker.cli.output.divert_stdout`).

    Raises:
        UsageError: There is no project here.
        ProblemsError: endpoint.toml is wrong, the project cannot be imported, or a function in it
            is wrong, or there is none.
    """
    project = None if args.module else _load(args.config)
    root = project.root if project else os.getcwd()
    main = project.main if project else args.module
    from gen_worker.discovery import discover

    functions = discover(root, main).raise_if_wrong().functions
    if _needs_toml(functions, project):
        from gen_worker.cli.keyspaces import with_refs

        functions = with_refs(functions, project)
    # What is imported by now stays; see `gen_worker.cli.main`.
    gc.freeze()
    gc.enable()
    return Endpoint(
        root=root,
        main=main,
        name=project.endpoint_name if project else slugify_name(main.partition(".")[0]),
        functions=functions,
        project=project,
    )


def _needs_toml(functions: tuple[FunctionSpec, ...], project: Project | None) -> bool:
    """Whether functions and endpoint.toml speak of each other, as the older dialect lets them."""
    if project is not None and (project.models or project.models_by_function or project.functions):
        return True
    parameters = (parameter for spec in functions for parameter in spec.models.values())
    return any(parameter.binding.dialect == "injection" for parameter in parameters)


def _load(config: str | None) -> Project:
    path = config or _CONFIG
    if not os.path.isfile(path):
        raise UsageError(
            f"no {config or './' + _CONFIG}: run this in a project folder, or give "
            "--config PATH or --module MODULE"
        )
    from gen_worker.project import load_project

    return load_project(path)


def find_function(endpoint: Endpoint, name: str) -> FunctionSpec:
    """Return the function of this name; see `named`.

    Raises:
        UnknownFunctionError: There is none, or several functions share the Python name.
    """
    found = named(endpoint.functions, name)
    if found is None:
        known = ", ".join(sorted(spec.registered_name for spec in endpoint.functions))
        raise UnknownFunctionError(f"no function {name!r} here; there are: {known}")
    return found


def named(functions: Sequence[FunctionSpec], name: str) -> FunctionSpec | None:
    """Return the one function of this registered name, slug or Python name, in that order."""
    for attribute in ("registered_name", "name", "python_name"):
        found = [spec for spec in functions if getattr(spec, attribute) == name]
        if len(found) == 1:
            return found[0]
    return None
