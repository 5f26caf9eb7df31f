"""What llama.cpp computes by its own code is what a configuration says, or the model is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gen_worker.conversion.gguf.architectures import architecture_of
from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.hyperparameters import hyperparameters

SIZES = {
    "max_position_embeddings": 128,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 320,
}
WINDOW, WHOLE = "sliding_attention", "full_attention"


def metadata(model_type: str, **values: Any) -> dict[str, Any]:
    config = {**SIZES, "model_type": model_type, **values}
    return dict(hyperparameters(config, architecture_of(config, "c.json"), "c.json"))


def yarn(**values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, **values}}


@pytest.mark.parametrize(
    ("model_type", "values", "named"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("gemma", {"hidden_act": "relu"}, "hidden_act"),
        ("gemma2", {"hidden_activation": "silu"}, "hidden_activation"),
        ("phi3", {"hidden_act": "gelu"}, "hidden_act"),
        ("bert", {"hidden_act": "relu"}, "hidden_act"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping"),
        ("gemma2", {"final_logit_softcapping": None}, "final_logit_softcapping"),
        ("gemma2", {"layer_types": [WHOLE] * 3}, "layer_types"),
        ("gemma3_text", {"layer_types": [WHOLE]}, "layer_types"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", yarn(attention_factor=1.5), "attention_factor"),
        (
            "gemma3_text",
            {"rope_parameters": {WINDOW: {"rope_type": "linear", "factor": 2.0}}},
            WINDOW,
        ),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen2", {"head_dim": 32}, "head_dim"),
        ("phi3", {"head_dim": 32}, "head_dim"),
        ("qwen2_moe", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("llama", yarn(beta_fast=4.0), "beta_fast"),
        ("llama", yarn(truncate=False), "truncate"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_what_is_computed_otherwise_is_refused_by_name(
    model_type: str, values: dict[str, Any], named: str
) -> None:
    with pytest.raises(GgufSourceError, match=f"for '{named}', and llama.cpp") as caught:
        metadata(model_type, **{"sliding_window": 16, **values})
    assert (caught.value.code, caught.value.file) == ("gguf_unsupported_config", "c.json")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, None),
        ({"attention_factor": 1.7}, 1.7),
        ({"mscale": 1.5, "mscale_all_dim": 0.5}, None),
    ],
)
def test_attention_of_yarn_is_said_by_what_it_is_more(
    said: dict[str, Any], wanted: float | None
) -> None:
    """`llama_context` multiplies by the usual strength, and by the key."""
    found = metadata("qwen2", **yarn(original_max_position_embeddings=32, **said))
    if wanted is None:
        over, under = said.get("mscale", 1), said.get("mscale_all_dim", 0)
        wanted = (1 + 0.1 * over * math.log(4)) / (1 + 0.1 * under * math.log(4))
    made = found["qwen2.rope.scaling.attn_factor"] * (1 + 0.1 * math.log(4))
    assert made == pytest.approx(wanted)
    assert found["qwen2.rope.scaling.original_context_length"] == 32


def test_a_longer_rope_takes_the_factor_that_is_said() -> None:
    """As `_compute_longrope_parameters` of transformers."""
    rope = {"rope_type": "longrope", "factor": 32.0, "short_factor": [1.0], "long_factor": [1.0]}
    found = metadata("phi3", original_max_position_embeddings=64, rope_parameters=rope)
    wanted = math.sqrt(1 + math.log(32) / math.log(64))
    assert found["phi3.rope.scaling.attn_factor"] == pytest.approx(wanted)


@pytest.mark.parametrize(("model_type", "usual"), [("gemma2", 2), ("gemma3_text", 6)])
def test_windows_are_where_the_configuration_has_them(model_type: str, usual: int) -> None:
    name = model_type.removesuffix("_text")
    size, pattern = (f"{name}.attention.sliding_window{end}" for end in ("", "_pattern"))
    layers = [WINDOW if (index + 1) % usual else WHOLE for index in range(7)]
    more: dict[str, Any] = {"num_hidden_layers": 7, "sliding_window": 16}
    for same in ({}, {"layer_types": layers}):
        found = metadata(model_type, **more, **same)
        assert (found[size], pattern in found) == (16, False)
    every = metadata(model_type, **more, sliding_window_pattern=3)
    assert every[pattern] == [True, True, False, True, True, False, True]
    own = metadata(model_type, **more, layer_types=[WHOLE, *[WINDOW] * 5, WHOLE])
    assert own[pattern] == [False, *[True] * 5, False]


def test_a_gemma_without_windows_has_none() -> None:
    found = metadata("gemma3_text", layer_types=[WHOLE] * 3)
    assert found["gemma3.attention.sliding_window"] == 0


@pytest.mark.parametrize(
    ("model_type", "base"), [("mixtral", 1e6), ("gemma3_text", 1e6), ("llama", None)]
)
def test_a_base_that_is_not_said_is_the_usual_one(model_type: str, base: float | None) -> None:
    found = metadata(model_type, sliding_window=16)
    assert [value for key, value in found.items() if key.endswith("freq_base")] == (
        [] if base is None else [base]
    )
