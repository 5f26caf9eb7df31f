"""Quants are those of llama.cpp to the bit: `reference/` holds what it makes of the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]
from safetensors.torch import load_file

from gen_worker.conversion.gguf.packing import QUANTS as _QUANTS

_REFERENCE = Path(__file__).parent / "reference" / "gguf_blocks.safetensors"


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return dict(load_file(_REFERENCE))


@pytest.mark.parametrize("name", sorted(_QUANTS))
def test_blocks_are_those_of_the_reference(name: str, reference: dict[str, Any]) -> None:
    made = _QUANTS[name](reference["input"])
    assert made.dtype == torch.uint8
    assert torch.equal(made, reference[name])


@pytest.mark.parametrize("name", sorted(set(_QUANTS) - {"Q8_0"}))
def test_blocks_fitted_by_importance_are_those_of_the_reference(
    name: str, reference: dict[str, Any]
) -> None:
    made = _QUANTS[name](reference["input"], reference["importance"])
    assert torch.equal(made, reference[f"{name}.importance"])


def test_eight_bits_are_the_same_whatever_is_important(reference: dict[str, Any]) -> None:
    made = _QUANTS["Q8_0"](reference["input"], reference["importance"])
    assert torch.equal(made, reference["Q8_0"])


@pytest.mark.parametrize("name", sorted(_QUANTS))
def test_rows_are_the_same_however_many_are_given_at_once(name: str) -> None:
    rows: Any = torch.randn(9, 1024, generator=torch.Generator().manual_seed(3))
    whole = _QUANTS[name](rows)
    parts = [_QUANTS[name](part) for part in rows.split(2)]
    assert torch.equal(whole, torch.cat(parts))
