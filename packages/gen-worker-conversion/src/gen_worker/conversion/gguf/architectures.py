"""Which language models there are GGUF files of, and how their tensors are changed for these."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.gguf.errors import GgufSourceError

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
    assumes: Mapping[str, tuple[Any, ...]] = MappingProxyType({})
    """What llama.cpp computes whatever the configuration says: its values, by name."""


WITH_OFFSET = ("roberta", "xlm-roberta", "camembert")
"""Types of encoders that count positions from behind that of the padding."""
_LARGEST_LAYERS = {"gemma2": 46, "gemma3": 62}
"""Of models whose attention is scaled by the width, which llama.cpp knows by their layers."""
_NO_WINDOW: Mapping[str, tuple[Any, ...]] = MappingProxyType({"use_sliding_window": (False, None)})
_ALL_SPARSE = {**_NO_WINDOW, "decoder_sparse_step": (1, None), "mlp_only_layers": ([], None)}
ARCHITECTURES = (
    Architecture(
        "llama", ("llama", "mistral", "mixtral"), is_rotated_in_pairs=True, has_experts=True
    ),
    Architecture("gemma", ("gemma",), norm_offset=1, has_unused_head=True),
    Architecture("gemma2", ("gemma2",), norm_offset=1, has_unused_head=True),
    Architecture("gemma3", ("gemma3_text",), norm_offset=1, has_unused_head=True),
    Architecture("qwen2", ("qwen2",), assumes=_NO_WINDOW),
    Architecture(
        "qwen2moe",
        ("qwen2_moe",),
        has_experts=True,
        assumes={**_ALL_SPARSE, "norm_topk_prob": (False, None)},
    ),
    Architecture("qwen3", ("qwen3",), assumes=_NO_WINDOW),
    Architecture(
        "qwen3moe",
        ("qwen3_moe",),
        has_experts=True,
        assumes={**_ALL_SPARSE, "norm_topk_prob": (True,)},
    ),
    Architecture("phi3", ("phi3",), is_fused=True),
    Architecture("bert", ("bert", *WITH_OFFSET), is_encoder=True),
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
    for name, values in allowed.items():
        if values and config.get(name) not in values:
            raise GgufSourceError(
                f"{file!r} says {config.get(name)!r} for {name!r}, and llama.cpp computes models "
                f"of {architecture.name} with {values[0]!r}: choose another format for this model",
                code="gguf_unsupported_config",
                file=file,
            )
