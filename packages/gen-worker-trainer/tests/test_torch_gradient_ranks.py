"""Two processes learn what one would of all their rows, whatever share of them each has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gen_worker.trainer.distributed.launch import launch

pytest.importorskip("torch")

import torch  # type: ignore[import-not-found,unused-ignore]

pytestmark = pytest.mark.one_python

_SCRIPT = Path(__file__).with_name("rank_gradients.py")


def command(parallel: str, directory: Path) -> list[str]:
    return [sys.executable, str(_SCRIPT), parallel, str(directory)]


def said(directory: Path, name: str) -> dict[str, Any]:
    learned: dict[str, Any] = json.loads((directory / f"{name}.json").read_text())
    return learned


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process learns of all rows."""
    directory = tmp_path_factory.mktemp("alone")
    subprocess.run(command("none", directory), check=True)
    return said(directory, "alone")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_take_the_steps_of_one(
    tmp_path: Path, parallel: str, alone: dict[str, Any]
) -> None:
    assert launch(command(parallel, tmp_path), 2, grace_s=300) == 0
    first, second = said(tmp_path, "0"), said(tmp_path, "1")
    assert (first.pop("rows"), second.pop("rows")) == (0, 3 if parallel == "ddp" else 0)
    assert first == second
    for name, values in first.items():
        for mine, whole in zip(values, alone[name], strict=True):
            torch.testing.assert_close(
                torch.tensor(mine), torch.tensor(whole), rtol=1e-4, atol=1e-6
            )
