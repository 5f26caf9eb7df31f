"""Declaring a model loads nothing an endpoint would notice at start-up."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gen_worker.models

HEAVY = ("asyncio", "inspect", "dataclasses", "logging", "json", "pathlib", "tomllib", "copy")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import gen_worker.models",
        "from gen_worker.models import *",
        "from gen_worker.models import Repo; Repo('a/b#bf16').choose('p', None, None)",
    ],
)
def test_no_heavy_import(statement: str) -> None:
    assert not (modules_after(statement) - modules_after("import msgspec")).intersection(HEAVY)
    new = modules_after(statement) - modules_after("import gen_worker.errors, gen_worker.lazy")
    assert {name for name in new if not name.startswith("gen_worker.models")} == set()


def test_package_itself_loads_no_part() -> None:
    new = modules_after("import gen_worker.models")
    ours = {name for name in new if name.startswith("gen_worker.")}
    assert ours == {"gen_worker.lazy", "gen_worker.models"}


def test_every_public_name_is_there() -> None:
    for name in gen_worker.models.__all__:
        assert getattr(gen_worker.models, name) is not None
    assert set(gen_worker.models.__all__) <= set(dir(gen_worker.models))


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        gen_worker.models.nonsense  # noqa: B018
