"""From `--config` / `--module` to the functions of the author's project."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from gen_worker.cli.failures import UsageError

if TYPE_CHECKING:
    import argparse

    from gen_worker.spec import FunctionSpec

__all__ = ["Endpoint", "open_endpoint"]

_CONFIG = "endpoint.toml"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
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
        ProjectError: endpoint.toml is wrong.
        DiscoveryError: The project cannot be imported, or a function in it is wrong.
    """
    root, main, name = _locate(args.config, args.module)
    from gen_worker.discovery import discover
    from gen_worker.project import DiscoveryError

    discovery = discover(root, main)
    if discovery.problems:
        raise DiscoveryError(discovery.problems)
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
