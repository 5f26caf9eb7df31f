"""A job's trainer is found by its path, and what is none is refused with a reason."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gen_worker.trainer.plugin import HOOKS, load_trainer_plugin

_HOOKS = "".join(f"    def {hook}(self, *arguments): return None\n" for hook in HOOKS)
_MODULE = f"""
import os
class Tuner:
{_HOOKS}
class Needy(Tuner):
    def __init__(self, size): ...
class Partial:
    def setup(self, ctx): ...
    configure = 3
made = Tuner()
def train(): ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    name = f"train_{abs(hash(request.node.nodeid))}"
    Path(name + ".py").write_text(_MODULE)
    return name


def test_a_class_is_made(module: str) -> None:
    trainer = load_trainer_plugin(f" {module} : Tuner ")

    assert type(trainer).__name__ == "Tuner"


def test_an_object_is_used_as_it_is(module: str) -> None:
    trainer = load_trainer_plugin(f"{module}:made")

    assert trainer is sys.modules[module].made


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ("trainer = made\nTrainer = Needy\nTRAINER = Tuner\n", "Tuner"),
        ("class Other(Tuner): ...\nTrainer = Other\n", "Other"),
        ("del Needy, made\n", "Tuner"),
    ],
)
def test_a_module_has_one_trainer(module: str, more: str, name: str) -> None:
    with open(module + ".py", "a") as file:
        file.write(more)

    assert type(load_trainer_plugin(module)).__name__ == name


@pytest.mark.parametrize(
    ("symbol", "error", "message"),
    [
        (":Nothing", ValueError, "has no 'Nothing'"),
        (":", ValueError, "names nothing"),
        (":train", TypeError, "plain callables are unsupported"),
        (":Needy", TypeError, "needs arguments to be made"),
        (":Partial", TypeError, "missing configure, prepare_batch, train_step, state_dict, load"),
        ("", ValueError, r"multiple trainer candidates \(Needy, Tuner, made\)"),
    ],
)
def test_what_is_no_trainer(module: str, symbol: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_trainer_plugin(module + symbol)


@pytest.mark.parametrize("path", ["", " ", ":Tuner"])
def test_a_path_that_names_nothing(path: str) -> None:
    with pytest.raises(ValueError, match="names nothing"):
        load_trainer_plugin(path)


def test_a_module_without_a_trainer(module: str) -> None:
    Path(module + ".py").write_text("import os\n_hidden = 3\n")

    with pytest.raises(ValueError, match="has no trainer"):
        load_trainer_plugin(module)


def test_there_is_no_such_module() -> None:
    with pytest.raises(ImportError, match="no_such_module_here"):
        load_trainer_plugin("no_such_module_here:Tuner")
