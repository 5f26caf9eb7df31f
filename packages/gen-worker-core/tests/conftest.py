"""Fixture projects: written to a temporary directory, imported, and forgotten again."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@pytest.fixture
def write_project(tmp_path: Path) -> Iterator[Callable[[Mapping[str, str]], Path]]:
    """Return a function that writes a project's files and returns its directory.

    An `endpoint.toml` whose `main` is `painter.app` is added unless one is given. What tests import
    from there leaves `sys.modules` and `sys.path` afterwards.
    """
    root = tmp_path / "project"
    path_before = list(sys.path)

    def write(files: Mapping[str, str]) -> Path:
        toml = 'schema_version = 1\nmain = "painter.app"\n'
        for name, text in {"endpoint.toml": toml, **files}.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text), encoding="utf-8")
        return root

    yield write
    sys.path[:] = path_before
    mine = [name for name, module in sys.modules.items() if _is_below(module, str(tmp_path))]
    for name in mine:
        del sys.modules[name]


def _is_below(module: object, folder: str) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(str(place).startswith(folder) for place in places)
