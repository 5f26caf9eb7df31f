"""Which language models there are GGUF files of, and how their tensors are changed for these."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.gguf.errors import GgufSourceError, computed_otherwise

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ARCHITECTURES", "WITH_OFFSET", "Architecture", "architecture_of"]


class Architecture(NamedTuple):
    """One kind of models, as llama.cpp knows it."""

    name: str
    """Of `general.architecture`."""
    model_types: tuple[str, ...]
    """Of transformers."""
    is_rotated_in_pairs: bool = False
    """Whether neighbours are rotated, where transformers rotates halves: rows are reordered."""
    norm_offset: int = 0
    """What is added to the weights of norms: some models store them without it."""
    has_unused_head: bool = False
    """Whether the output is always the embedding."""
    is_encoder: bool = False
    is_fused: bool = False
    """Whether queries, keys and values are one weight, and gate and up another."""
    has_experts: bool = False
    """Whether layers may be mixtures of experts."""
    has_divided_heads: bool = False
    """Whether all heads together are as wide as the model."""
    assumes: Mapping[str, tuple[Any, ...]] = MappingProxyType({})
    """What llama.cpp computes whatever the configuration says: its values, by name."""


WITH_OFFSET = ("roberta", "xlm-roberta", "camembert")
"""Types of encoders that count positions from behind that of the padding."""
_LARGEST_LAYERS = {"gemma2": 46, "gemma3": 62}
"""Of models whose attention is scaled by the width, which llama.cpp knows by their layers."""
_SOFTCAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
"""Of Gemma 2: what is taken where a file says nothing; there is no way to say none."""
_SILU: Mapping[str, tuple[Any, ...]] = MappingProxyType({"hidden_act": ("silu", "swish", None)})
_GELU = ("gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast", None)
"""All are computed by the formula with tanh, within a thousandth of the exact one."""
_NO_BIAS = {"attention_bias": (False, None)}
_NO_WINDOW = {**_SILU, "use_sliding_window": (False, None)}
_ALL_SPARSE = {**_NO_WINDOW, "decoder_sparse_step": (1, None), "mlp_only_layers": ([], None)}
_GEMMA = {**_NO_BIAS, "hidden_activation": _GELU, "use_bidirectional_attention": (False, None)}
_ENCODER = {
    "hidden_act": _GELU,
    "is_decoder": (False, None),
    "position_embedding_type": ("absolute", None),
}
ARCHITECTURES = (
    Architecture(
        "llama",
        ("llama", "mistral", "mixtral"),
        is_rotated_in_pairs=True,
        has_experts=True,
        assumes=_SILU,
    ),
    Architecture(
        "gemma",
        ("gemma",),
        norm_offset=1,
        has_unused_head=True,
        assumes={**_GEMMA, "hidden_act": _GELU},
    ),
    Architecture("gemma2", ("gemma2",), norm_offset=1, has_unused_head=True, assumes=_GEMMA),
    Architecture("gemma3", ("gemma3_text",), norm_offset=1, has_unused_head=True, assumes=_GEMMA),
    Architecture("qwen2", ("qwen2",), has_divided_heads=True, assumes=_NO_WINDOW),
    Architecture(
        "qwen2moe",
        ("qwen2_moe",),
        has_experts=True,
        has_divided_heads=True,
        assumes={
            **_ALL_SPARSE,
            "norm_topk_prob": (False, None),
            "tie_word_embeddings": (False, None),
        },
    ),
    Architecture("qwen3", ("qwen3",), assumes={**_NO_WINDOW, **_NO_BIAS}),
    Architecture(
        "qwen3moe",
        ("qwen3_moe",),
        has_experts=True,
        assumes={**_ALL_SPARSE, **_NO_BIAS, "norm_topk_prob": (True,)},
    ),
    Architecture("phi3", ("phi3",), is_fused=True, has_divided_heads=True, assumes=_SILU),
    Architecture("bert", ("bert", *WITH_OFFSET), is_encoder=True, assumes=_ENCODER),
)


def architecture_of(config: Mapping[str, Any], file: str) -> Architecture:
    """Return the architecture of a model.

    Args:
        config: What `config.json` says.
        file: Its path, for messages.

    Raises:
        GgufSourceError: It is none of `ARCHITECTURES`, or computes in another way.
    """
    wanted = config.get("model_type")
    for architecture in ARCHITECTURES:
        if wanted in architecture.model_types:
            _check(config, architecture, file)
            return architecture
    known = ", ".join(name for one in ARCHITECTURES for name in one.model_types)
    raise GgufSourceError(
        f"{file!r} has the model_type {wanted!r}, GGUF files are made of {known}: choose another "
        "format for this model",
        code="unsupported_gguf_architecture_from_config",
        file=file,
    )


def _check(config: Mapping[str, Any], architecture: Architecture, file: str) -> None:
    """Refuse a model whose file would give other results than the model does."""
    allowed = dict(architecture.assumes)
    if architecture.name in _LARGEST_LAYERS:
        is_largest = config.get("num_hidden_layers") == _LARGEST_LAYERS[architecture.name]
        allowed["query_pre_attn_scalar"] = () if is_largest else (config.get("head_dim", 256), None)
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if architecture.has_divided_heads and isinstance(width, int) and isinstance(heads, int):
        allowed["head_dim"] = (width // heads if heads else width, None)
    for name, values in allowed.items():
        if values and config.get(name) not in values:
            raise computed_otherwise(file, name, config.get(name), architecture.name, values[0])
    for name, usual in _SOFTCAPS.items() if architecture.name == "gemma2" else ():
        if not config.get(name, usual):
            raise computed_otherwise(file, name, config[name], architecture.name, usual)
