"""The memory that packing takes does not grow with the model or its tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

SCRIPT = str(Path(__file__).with_name("gguf_process.py"))
MIB = 1 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, write_hollow_model: Any) -> Path:
    """Return a model of 600 MB that takes no disk: its file is a hole after the header."""
    shapes = {
        "one_row": (1, 64 * MIB),  # 256 MiB in a single row
        "rows": (8192, 2048),
        **{f"layer.mlp.experts.{number}.up_proj.weight": (1024, 2048) for number in range(8)},
        "wide": (2, 28 * MIB),
    }
    path: Path = write_hollow_model(tmp_path_factory.mktemp("large") / "model.safetensors", shapes)
    return path


def test_memory_is_bounded(large: Path, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, str(large), str(tmp_path), "Q8_0"]
    made = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    assert json.loads(made.stdout) <= 200 * MIB
