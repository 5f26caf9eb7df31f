"""Sentence encoders that count positions from behind the padding, and their tokenizers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.gguf import (
    GgufSourceError,
    plan_language_model,
    transformers_weights,
    unpacked,
    write_gguf,
)
from gen_worker.models.formats import read_gguf_header

if TYPE_CHECKING:
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("gguf")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

UNIGRAM = {
    "model": {
        "type": "Unigram",
        "vocab": [[text, -1.0] for text in ("<s>", "<pad>", "</s>", "<unk>", *"abcdefgh")],
        "unk_id": 3,
    },
    "pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "always"},
}
BYTES = {
    "model": {"type": "BPE", "vocab": {"<s>": 0, "<pad>": 1, "a": 2}, "merges": []},
    "pre_tokenizer": {"type": "ByteLevel"},
}


def encoder(kind: str, place: Path) -> Path:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=12,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=18,
        type_vocab_size=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForMaskedLM")(config).save_pretrained(place)
    tokenizer = UNIGRAM if kind == "XLMRoberta" else BYTES
    (place / "tokenizer.json").write_text(json.dumps(tokenizer))
    return place


@pytest.mark.parametrize(
    ("kind", "tokenizer", "pre"),
    [("XLMRoberta", "t5", "default"), ("Roberta", "gpt2", "roberta-bpe")],
)
def test_positions_begin_with_the_first_token(
    kind: str, tokenizer: str, pre: str, tmp_path: Path
) -> None:
    source = encoder(kind, tmp_path / "model")
    plan = plan_language_model(source, "f32")
    file = write_gguf(plan.tensors, plan.metadata, tmp_path / "m.gguf").path
    said = read_gguf_header(file).metadata
    assert (said["general.architecture"], said["bert.context_length"]) == ("bert", 16)
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == (tokenizer, pre)
    assert said["tokenizer.ggml.token_type_count"] == 1
    weights = safetensors_torch.load_file(source / "model.safetensors")
    made, prefix = unpacked(file), "roberta.embeddings"
    positions = weights[f"{prefix}.position_embeddings.weight"]
    assert torch.equal(made["position_embd.weight"].tensor(), positions[2:])
    words = weights[f"{prefix}.word_embeddings.weight"]
    assert torch.equal(made["token_embd.weight"].tensor(), words)
    assert all(name.startswith(("lm_head.", "roberta.")) for name in plan.left_out)
    with pytest.raises(GgufSourceError, match="positions"):
        transformers_weights(file)
