"""Quality gates that need nothing but the model: what is run, and what is close enough."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torch")
pytest.importorskip("transformers")

from gen_worker.conversion.convert import plan_conversion, prove_outputs, run_conversion
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.verify import VerificationError, usual_gate
from gen_worker.models.tiny import tiny_llama, tiny_stable_diffusion

EXACT, CLOSE = 999.0, 20.0


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("diffusers")
    return tiny_stable_diffusion(tmp_path_factory.mktemp("pipeline") / "model")


def quality(source: str, target: str, out: Path, least: float, **options: object) -> float | None:
    """Convert, and return how close in decibels the outputs are; None where they are equal."""
    plan = plan_conversion(source, [target], out=out, **options)  # type: ignore[arg-type]
    run_conversion(plan)
    [one] = prove_outputs(plan, gate=usual_gate(source, min_snr_db=least))
    assert one.report.quality is not None
    return one.report.quality.snr_db


def test_a_language_model_is_compared_by_its_logits_also_as_gguf(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    source = tiny_llama(tmp_path / "model")

    near = quality(source, "bf16", tmp_path / "bf16", CLOSE)
    # Through the names, permutations and tokenizer of llama.cpp, and back by another reader.
    same = quality(source, "gguf:f32", tmp_path / "gguf", CLOSE)

    assert near is not None
    assert CLOSE < near < EXACT
    assert same is None or same > 100


def test_an_encoder_is_compared_by_its_hidden_states(pipeline: str, tmp_path: Path) -> None:
    source = os.path.join(pipeline, "text_encoder")
    assert quality(source, "fp32", tmp_path / "same", EXACT) is None


def test_a_pipeline_is_compared_by_latents_also_in_one_file(pipeline: str, tmp_path: Path) -> None:
    assert quality(pipeline, "fp32", tmp_path / "file", EXACT, layout="singlefile") is None


def test_what_is_too_far_is_not_proven(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "model")
    with pytest.raises(VerificationError, match="999 dB are needed"):
        quality(source, "bf16", tmp_path / "out", EXACT)
    assert not (tmp_path / "out" / "verification.json").exists()


def test_a_model_of_unknown_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConversionInputError, match="a QualityGate with outputs of your own"):
        usual_gate(tmp_path, min_snr_db=20)
