"""What an output says of itself: source, recipe, versions, hashes, and the source's licence."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from gen_worker.conversion.card import front_matter, model_card
from gen_worker.conversion.provenance import Provenance, hashes_of, write_proof
from gen_worker.conversion.verify import Difference, TensorReport, VerificationReport

if TYPE_CHECKING:
    from pathlib import Path

CARD = """---
license: other
license_name: some-licence
license_link: https://example.org/licence
tags:
- text-generation
  - nested
base_model: older/one
widget:
  - text: hello
---
# A model
license: this is no header
"""
REPORT = VerificationReport(
    loaded={"": "LlamaForCausalLM"},
    tensors=(
        TensorReport(
            component="", name="w", dtype="BF16", source_dtype="F32", max_abs=0.5, snr_db=41.25
        ),
        TensorReport(component="", name="n", dtype="F32", source_dtype="F32"),
    ),
    quality=Difference(max_abs=1.0, mean_abs=0.1, snr_db=33.3),
)


def provenance(**recipe: object) -> Provenance:
    return Provenance.of(
        source_ref="acme/model",
        source_revision="blake3:ab",
        recipe=recipe,
        files={"b": "2", "a": "1"},
    )


def test_the_same_recipe_has_the_same_hash_and_another_another() -> None:
    first, again = provenance(dtype="bf16", keep=["a"]), provenance(keep=["a"], dtype="bf16")
    assert first == again
    assert first.recipe_hash != provenance(dtype="fp16", keep=["a"]).recipe_hash
    assert list(first.files) == ["a", "b"]
    assert first.tools["gen-worker-conversion"]


def test_a_card_carries_the_licence_and_names_the_base_model(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    text = model_card(provenance(dtype="bf16"), REPORT, source=tmp_path, relation="quantized")
    matter = front_matter(text)
    assert matter["license_name"] == "license_name: some-licence"
    assert matter["tags"] == "tags:\n- text-generation\n  - nested"
    assert matter["base_model"] == 'base_model: "acme/model"'
    assert matter["base_model_relation"] == "base_model_relation: quantized"
    assert "widget" not in matter
    assert "| lowest SNR | 41.2 dB |" in text
    assert "| SNR of the outputs | 33.3 dB |" in text
    assert '"dtype": "bf16"' in text


@pytest.mark.parametrize("text", ["", "# no header", "---\nlicense: mit\n", "----\na: b\n---\n"])
def test_a_card_without_a_header_carries_nothing(text: str) -> None:
    assert front_matter(text) == {}


def test_the_proof_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    """So that publishing again sends nothing."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"weights")

    def write() -> dict[str, bytes]:
        facts = write_proof(
            out,
            Provenance.of(source_ref="a/b", recipe={"x": 1}, files=hashes_of(out)),
            REPORT,
        )
        assert facts["verification"]["min_snr_db"] == 41.25
        assert facts["provenance"]["source_ref"] == "a/b"
        return {name: (out / name).read_bytes() for name in sorted(os.listdir(out))}

    first = write()
    assert write() == first
    assert list(first) == ["README.md", "model.safetensors", "provenance.json", "verification.json"]
    told = json.loads(first["provenance.json"])
    assert list(told["files"]) == ["model.safetensors"]
    assert json.loads(first["verification.json"])["tensors"][0]["snr_db"] == 41.25
