"""How positions are rotated: keys of the metadata, and tensors of factors where there are any."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.errors import GgufSourceError, computed_otherwise
from gen_worker.conversion.lazy import LazyTensor, computed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.conversion.gguf.container import Value

__all__ = ["rope_of", "rotation_metadata", "rotation_tensors"]

_YARN = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
"""What is computed with, whatever a file says: its keys are read for other architectures."""
_ORIGINAL = "original_max_position_embeddings"
_THETA = {"mixtral": 1e6, "gemma3_text": 1e6}
"""Of configurations that say nothing; of all others it is the 10,000 of llama.cpp."""
_ANYWHERE = ("default", "linear", "yarn")
_OF_ONE = {"llama3": "llama", "longrope": "phi3"}
"""Kinds whose factors are tensors that one architecture alone reads."""


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how positions are rotated, whichever release of transformers wrote it."""
    found = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
    whole = found.get("full_attention")
    if isinstance(whole, dict):
        found |= whole
    kind = found.get("rope_type") or found.get("type") or "default"
    found["rope_type"] = {"su": "longrope"}.get(kind, kind)
    for name in ("rope_theta", "partial_rotary_factor"):
        if config.get(name):
            found.setdefault(name, config[name])
    if config.get("model_type") in _THETA:
        found.setdefault("rope_theta", _THETA[config["model_type"]])
    original = (
        config.get(_ORIGINAL) or found.get(_ORIGINAL) or config.get("max_position_embeddings")
    )
    if original:
        found[_ORIGINAL] = original
    local = config.get("rope_local_base_freq")
    if local:
        found.setdefault("sliding_attention", {"rope_theta": local})
    return found


def rotation_metadata(config: Mapping[str, Any], architecture: str, file: str) -> dict[str, Value]:
    """Return the keys that begin with `rope.`, without the architecture's name.

    Raises:
        GgufSourceError: The kind is not known there, or lacks a number.
    """
    rope = rope_of(config)
    kind = rope["rope_type"]
    if kind not in _ANYWHERE and _OF_ONE.get(kind) != architecture:
        raise _unknown(file, f"models of {architecture} with positions scaled by {kind!r}")
    share = rope.get("partial_rotary_factor") or 1.0
    if architecture != "phi3" and share != 1.0:
        raise computed_otherwise(file, "partial_rotary_factor", share, architecture, 1.0)
    made: dict[str, Value] = {}
    if rope.get("rope_theta"):
        made["rope.freq_base"] = float(rope["rope_theta"])
    local = rope.get("sliding_attention")
    if isinstance(local, dict):
        scaled = local.get("rope_type") or "default"
        if scaled != "default":
            raise computed_otherwise(file, "sliding_attention", scaled, architecture, "default")
        if local.get("rope_theta"):
            made["rope.freq_base_swa"] = float(local["rope_theta"])
    if kind in ("linear", "yarn"):
        factor = _number(rope, "factor", file)
        made |= {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    if kind == "yarn":
        made["rope.scaling.attn_factor"] = _yarn_attention(rope, architecture, file)
    if kind == "longrope":
        made["rope.scaling.type"] = kind
        made["rope.scaling.attn_factor"] = _long_attention(rope, config, file)
    if kind in ("yarn", "longrope"):
        original = int(_number(rope, _ORIGINAL, file))
        made["rope.scaling.original_context_length"] = original
    return made


def rotation_tensors(config: Mapping[str, Any], head_size: int, file: str) -> dict[str, LazyTensor]:
    """Return the factors of rotations that the formula alone does not give.

    Args:
        config: What `config.json` says.
        head_size: Values of a head.
        file: Path of the configuration, for messages.

    Raises:
        GgufSourceError: There are too few or too many.
    """
    rope = rope_of(config)
    if rope["rope_type"] == "llama3":
        return {"rope_freqs.weight": _values(_llama3_factors(rope, head_size, file))}
    if rope["rope_type"] != "longrope":
        return {}
    wanted = int(head_size * rope.get("partial_rotary_factor", 1.0)) // 2
    made: dict[str, LazyTensor] = {}
    for kind in ("long", "short"):
        factors = rope.get(f"{kind}_factor")
        if not isinstance(factors, (list, tuple)) or len(factors) != wanted:
            raise _invalid(file, f"{kind}_factor", f"{wanted} numbers")
        made[f"rope_factors_{kind}.weight"] = _values([float(one) for one in factors])
    return made


def _llama3_factors(rope: Mapping[str, Any], size: int, file: str) -> list[float]:
    """Return what frequencies are divided by: `_compute_llama3_parameters` of transformers."""
    factor, low, high, original = (
        _number(rope, name, file)
        for name in ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL)
    )
    made = []
    for index in range(0, size, 2):
        length = 2 * math.pi * float(rope.get("rope_theta", 10000.0)) ** (index / size)
        share = min(max((original / length - low) / (high - low), 0.0), 1.0)
        made.append(1 / ((1 - share) / factor + share))
    return made


def _long_attention(rope: Mapping[str, Any], config: Mapping[str, Any], file: str) -> float:
    """Return what attention is multiplied by: `_compute_longrope_parameters` of transformers."""
    if rope.get("attention_factor"):
        return float(rope["attention_factor"])
    original = _number(rope, _ORIGINAL, file)
    if rope.get("factor") is not None:
        longer = _number(rope, "factor", file)
    else:
        longer = _number(config, "max_position_embeddings", file) / original
    return math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 else 1.0


def _yarn_attention(rope: Mapping[str, Any], architecture: str, file: str) -> float:
    """Return what attention is multiplied by: `_compute_yarn_parameters` of transformers.

    Divided by what llama.cpp multiplies it by itself: `llama_context` in llama-context.cpp.
    """
    for name, known in _YARN.items():
        if rope.get(name) not in (known, None):
            raise computed_otherwise(file, name, rope[name], architecture, known)
    factor = _number(rope, "factor", file)

    def strength(scale: float) -> float:
        return 1.0 + 0.1 * scale * math.log(factor) if factor > 1 else 1.0

    wanted = strength(1.0)
    if rope.get("attention_factor") is not None:
        wanted = _number(rope, "attention_factor", file)
    elif rope.get("mscale") and rope.get("mscale_all_dim"):
        wanted = strength(_number(rope, "mscale", file))
        wanted /= strength(_number(rope, "mscale_all_dim", file))
    if architecture == "gemma3" and wanted != strength(1.0):  # its windows would have it, too
        raise computed_otherwise(file, "attention_factor", wanted, architecture, strength(1.0))
    return wanted / strength(1.0)


def _number(found: Mapping[str, Any], name: str, file: str) -> float:
    value = found.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise _invalid(file, name, "a positive number")
    return float(value)


def _invalid(file: str, name: str, wanted: str) -> GgufSourceError:
    return GgufSourceError(
        f"{file!r} scales positions, and its {name!r} is not {wanted}: take the configuration "
        "that belongs to the model",
        code="gguf_invalid_config_json",
        file=file,
    )


def _unknown(file: str, what: str) -> GgufSourceError:
    return GgufSourceError(
        f"{file!r} is of a kind that llama.cpp does not compute, {what}: choose another format",
        code="gguf_unsupported_config",
        file=file,
    )


def _values(numbers: Sequence[float]) -> LazyTensor:
    def rows(start: int, stop: int) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        return torch.tensor(numbers[start:stop], dtype=torch.float32)

    return computed(rows, shape=(len(numbers),), dtype="F32", of=())
