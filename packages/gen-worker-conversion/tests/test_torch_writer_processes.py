"""Killed at any moment, a conversion goes on; its memory does not grow with the model."""

from __future__ import annotations

import json
import random
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

SCRIPT = str(Path(__file__).with_name("writing_process.py"))
MIB = 1 << 20


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def write(model: Path, out: Path, journal: Path) -> int:
    """Do what the process does, here."""
    resumed: int = runpy.run_path(SCRIPT)["journaled"](str(model), str(out), str(journal))
    return resumed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    weights = {f"layer.{n:02d}": torch.randn(300, 600, generator=generator) for n in range(16)}
    safetensors_torch.save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def wanted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("wanted") / "out"
    write(model, out, out.with_suffix(".journal"))
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.chaos
def test_a_killed_conversion_repeats_one_file_at_most(
    model: Path, wanted: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    out, journal = tmp_path / "out", tmp_path / "journal"
    with started("journaled", model, out, journal) as process:
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 30)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    whole = [path for path in out.iterdir() if path.suffix == ".safetensors"]
    assert all(path.read_bytes() == wanted[path.name] for path in whole)
    assert write(model, out, journal) >= len(whole) - 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == wanted


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, write_hollow_model: Any) -> Path:
    """Return a model of 600 MB that takes no disk: most of its file is a hole."""
    shapes = {
        "flat": (25 * MIB,),  # 100 MiB
        "one_row": (1, 4096, 16384),  # 256 MiB in the first dimension's only row
        "rows": (16384, 2048),  # 128 MiB
        "small": (100, 100),
        "wide": (2, 16 * MIB),  # 128 MiB
    }
    path: Path = write_hollow_model(tmp_path_factory.mktemp("large") / "model.safetensors", shapes)
    return path


def test_memory_is_bounded(large: Path, tmp_path: Path) -> None:
    most_bytes = {
        "cast": 200 * MIB,
        "copy": 200 * MIB,
        "merge": 200 * MIB,
        "loop": (256 + 128 + 128) * MIB,  # one tensor of the source and one converted
        "whole": (2 * 128 + 300) * MIB,
    }
    with started("measured", large, tmp_path, *most_bytes) as process:
        assert process.stdout is not None
        grown: dict[str, int] = json.loads(process.stdout.read())
    assert list(grown) == list(most_bytes)
    for kind, size_bytes in grown.items():
        assert size_bytes <= most_bytes[kind], kind
