"""Singular values of large differences: next to the best, in little memory, the same every time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lora import extract_layers
from gen_worker.conversion.lora.singular_values import REST_TOLERANCE, decomposed

if TYPE_CHECKING:
    from gen_worker.conversion.lazy import OpenCheckpoint

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")


def _saved(path: Path, tensors: dict[str, Any]) -> OpenCheckpoint:
    safetensors_torch.save_file(tensors, path)
    return open_checkpoint(path)


def _falling(rows: int, columns: int, power: float) -> Any:
    """Return a matrix whose singular values fall as `1 / n ** power`."""
    count = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, count))[0]
    right = torch.linalg.qr(torch.randn(columns, count))[0]
    return (left * torch.arange(1, count + 1).float().pow(-power)) @ right.T


@pytest.mark.parametrize(
    ("shape", "power", "rank"),
    [
        *(((300, 500), 1.0, 4), ((500, 300), 0.5, 16), ((256, 256), 2.0, 32)),
        *(((400, 400), 0.1, 8), ((300, 300), 0.0, 8), ((64, 640), 1.0, 30)),
    ],
)
def test_what_is_left_is_next_to_the_least(shape: tuple[int, int], power: float, rank: int) -> None:
    torch.manual_seed(3)
    matrix = _falling(*shape, power)

    left, values, right = decomposed(matrix, rank)

    least = torch.linalg.svdvals(matrix)[rank:].norm()
    rest = (matrix - (left * values) @ right).norm()
    assert float(rest) <= float(least) * (1 + REST_TOLERANCE) + 5e-4 * float(matrix.norm())
    for side in (left.T, right):
        torch.testing.assert_close(side @ side.T, torch.eye(rank), atol=2e-5, rtol=0)
    assert values.equal(values.sort(descending=True).values)
    assert all(
        a.equal(b) for a, b in zip((left, values, right), decomposed(matrix, rank), strict=True)
    )


def test_values_that_are_not_found_in_time_are_lapacks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    matrix = _falling(200, 300, 0.0)
    monkeypatch.setattr("gen_worker.conversion.lora.singular_values._STEPS", 2)

    left, values, right = decomposed(matrix, 5)

    exact = torch.linalg.svd(matrix, full_matrices=False)
    assert left.equal(exact[0][:, :5])
    assert values.equal(exact[1][:5])
    assert right.equal(exact[2][:5])


def test_an_extraction_takes_less_than_two_differences(tmp_path: Path) -> None:
    side, rank = 4096, 32
    torch.manual_seed(5)
    change = torch.randn(side, 4) @ torch.randn(4, side)
    name = {"a.weight": torch.zeros(side, side, dtype=torch.bfloat16)}
    _saved(tmp_path / "base.safetensors", name)
    _saved(tmp_path / "tuned.safetensors", {"a.weight": change.bfloat16()})
    script = Path(__file__).with_name("extracting_process.py")

    made = subprocess.run(
        [sys.executable, script, tmp_path, str(rank)], stdout=subprocess.PIPE, check=True
    )

    assert 1 <= json.loads(made.stdout) / (4 * side * side) <= 2


def test_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    base = _saved(tmp_path / "base.safetensors", {"conv_in.weight": torch.ones(4, 4, 3, 3)})
    for value in (math.nan, math.inf):
        wrong = torch.ones(4, 4, 3, 3)
        wrong[1, 2, 0, 1] = value
        tuned = _saved(tmp_path / "tuned.safetensors", {"conv_in.weight": wrong})
        layer = extract_layers(base, tuned, rank=2).layers["conv_in"]
        with pytest.raises(ConversionInputError, match=r"'conv_in\.weight' differs by values"):
            layer.up.tensor()
