"""What a GGUF file says about the shape of a language model, from its `config.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.architectures import WITH_OFFSET
from gen_worker.conversion.gguf.errors import GgufSourceError, computed_otherwise
from gen_worker.conversion.gguf.experts import expert_count
from gen_worker.conversion.gguf.rotations import rope_of, rotation_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.architectures import Architecture
    from gen_worker.conversion.gguf.container import Value

__all__ = ["first_position", "head_size", "hyperparameters", "key_heads", "number_of"]

_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
_REALS = {
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_WINDOWS = {"gemma2": 2, "gemma3": 6}
"""Every how many layers one sees all, where a configuration says nothing else."""
_LAYERS = ("sliding_attention", "full_attention")
_EXPERTS = {
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}


_INT32 = (1 << 31) - 1
_MOST = {"num_hidden_layers": 4096, "head_dim": 1 << 16, "hidden_size": 1 << 20}
"""Of what lists are made of; the largest models have about 130 layers."""


def hyperparameters(
    config: Mapping[str, Any], architecture: Architecture, file: str
) -> dict[str, Value]:
    """Return the metadata that begin with the architecture's name.

    Raises:
        GgufSourceError: The configuration lacks something.
    """
    made: dict[str, Value] = {key: number_of(config, name, file) for key, name in _SIZES.items()}
    made["attention.head_count_kv"] = key_heads(config, file)
    made |= {key: float(config[name]) for key, name in _REALS.items() if config.get(name)}
    made |= _own(config, architecture, file)
    if not architecture.is_encoder:
        made |= rotation_metadata(config, architecture.name, file)
    return {f"{architecture.name}.{key}": value for key, value in made.items()}


def number_of(config: Mapping[str, Any], name: str, file: str) -> int:
    """Return a size of a configuration."""
    value, most = config.get(name), _MOST.get(name, _INT32)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise GgufSourceError(
            f"{file!r} says {value!r:.100} for {name!r}, a number from 1 to {most} is needed: take "
            "the configuration that belongs to the model",
            code="gguf_invalid_config_json",
            file=file,
        )
    return value


def key_heads(config: Mapping[str, Any], file: str) -> int:
    """Return how many heads keys and values have."""
    name = "num_key_value_heads"
    return number_of(config, name if config.get(name) else "num_attention_heads", file)


def first_position(config: Mapping[str, Any]) -> int:
    """Return the row of position embeddings that the first token of a text has."""
    if config.get("model_type") not in WITH_OFFSET:
        return 0
    padding = config.get("pad_token_id")
    return 1 + padding if isinstance(padding, int) else 0


def head_size(config: Mapping[str, Any], file: str) -> int:
    """Return how many values a head has."""
    if config.get("head_dim"):
        return number_of(config, "head_dim", file)
    return number_of(config, "hidden_size", file) // number_of(config, "num_attention_heads", file)


def _own(config: Mapping[str, Any], architecture: Architecture, file: str) -> dict[str, Value]:
    made: dict[str, Value] = {}
    size = head_size(config, file)
    if config.get("head_dim"):
        made |= {"attention.key_length": size, "attention.value_length": size}
    if architecture.name in ("llama", "phi3"):
        share = rope_of(config).get("partial_rotary_factor", 1.0)
        made["rope.dimension_count"] = int(size * share)
    if architecture.name == "llama":
        made["vocab_size"] = number_of(config, "vocab_size", file)
    if architecture.name == "phi3":
        made["attention.sliding_window"] = config.get("sliding_window") or 0
    if architecture.name in _WINDOWS:
        made |= _windows(config, architecture.name, file)
    if architecture.is_encoder:
        made["attention.causal"] = False
        positions = number_of(config, _SIZES["context_length"], file)
        made["context_length"] = positions - first_position(config)
    if expert_count(config):
        made["expert_count"] = expert_count(config)
        made |= {
            key: number_of(config, name, file) for key, name in _EXPERTS.items() if name in config
        }
    return made


def _windows(config: Mapping[str, Any], architecture: str, file: str) -> dict[str, Value]:
    """Return which layers see a part of a text, and how much."""
    count, usual = number_of(config, "num_hidden_layers", file), _WINDOWS[architecture]
    every = usual
    if config.get("sliding_window_pattern"):
        every = number_of(config, "sliding_window_pattern", file)
    kinds = config.get("layer_types")
    if not kinds:
        kinds = [_LAYERS[index % every == every - 1] for index in range(count)]
    is_known = isinstance(kinds, list) and all(kind in _LAYERS for kind in kinds)
    if not is_known or len(kinds) != count:
        raise computed_otherwise(file, "layer_types", kinds, architecture, list(_LAYERS))
    windows = [kind == _LAYERS[0] for kind in kinds]
    if not any(windows):
        if architecture == "gemma2":
            raise computed_otherwise(file, "layer_types", kinds, architecture, _LAYERS[0])
        return {"attention.sliding_window": 0}
    made: dict[str, Value] = {"attention.sliding_window": number_of(config, "sliding_window", file)}
    if windows != [index % usual != usual - 1 for index in range(count)]:
        made["attention.sliding_window_pattern"] = windows
    return made
