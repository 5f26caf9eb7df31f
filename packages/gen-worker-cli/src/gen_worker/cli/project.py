"""From `--config` / `--module` to the functions of the author's project."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.cli.failures import UsageError
from gen_worker.errors import UnknownFunctionError
from gen_worker.problems import ProblemsError

if TYPE_CHECKING:
    import argparse

    from gen_worker.spec import FunctionSpec

__all__ = ["Endpoint", "find_function", "open_endpoint"]

_CONFIG = "endpoint.toml"


class Endpoint(NamedTuple):
    """An author's project, imported."""

    root: str
    """Absolute folder of the project."""
    main: str
    name: str
    """From endpoint.toml, else the first part of `main`."""
    functions: tuple[FunctionSpec, ...]


def open_endpoint(args: argparse.Namespace) -> Endpoint:
    """Import the project that `--config` and `--module` point at.

    The author's code runs here: divert stdout first (`gen_worker.cli.output.divert_stdout`).

    Raises:
        UsageError: There is no project here, or it has no function.
        ProblemsError: endpoint.toml is wrong, the project cannot be imported, or a function in it
            is wrong.
    """
    root, main, name = _locate(args.config, args.module)
    from gen_worker.discovery import discover

    discovery = discover(root, main)
    if discovery.problems:
        raise ProblemsError(discovery.problems)
    if not discovery.functions:
        raise UsageError(
            f"no endpoint function in {main!r}: decorate one with @inference_function, or point "
            "`main` in endpoint.toml at the module that holds it"
        )
    return Endpoint(root=root, main=main, name=name, functions=discovery.functions)


def _locate(config: str | None, module: str | None) -> tuple[str, str, str]:
    if module:
        return os.getcwd(), module, module.partition(".")[0]
    path = os.path.abspath(config or _CONFIG)
    if not os.path.isfile(path):
        raise UsageError(
            f"no {config or './' + _CONFIG}: run this in a project folder, or give "
            "--config PATH or --module MODULE"
        )
    from gen_worker.project import load_project

    project = load_project(path)
    return os.path.dirname(path), project.main, project.name or project.main.partition(".")[0]


def find_function(endpoint: Endpoint, name: str) -> FunctionSpec:
    """Return the function of this registered name, slug or Python name, looked for in that order.

    Raises:
        UnknownFunctionError: There is none, or several functions share the Python name.
    """
    for attribute in ("registered_name", "name", "python_name"):
        found = [spec for spec in endpoint.functions if getattr(spec, attribute) == name]
        if len(found) == 1:
            return found[0]
    known = ", ".join(sorted(spec.registered_name for spec in endpoint.functions))
    raise UnknownFunctionError(f"no function {name!r} here; there are: {known}")
