"""The tensors of a transformers model, named and laid out as llama.cpp wants them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.hyperparameters import head_size, key_heads, number_of, rope_of
from gen_worker.conversion.gguf.mixes import by_layer, layer_of
from gen_worker.conversion.lazy import LazyTensor, computed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.architectures import Architecture
    from gen_worker.conversion.lazy import Checkpoint

__all__ = ["gguf_package", "interleaved", "named_tensors"]

_UNUSED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias", ".position_ids")
_ENCODER_PREFIX = re.compile(r"^(bert|model)\.(?=embeddings|encoder|pooler)")
_ENCODER_UNUSED = ("pooler.", "cls.", "classifier.")
_HEAD = "lm_head.weight"


def gguf_package() -> Any:
    """Return the library `gguf`.

    Raises:
        ConversionInputError: It is not installed.
    """
    try:
        import gguf  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise ConversionInputError(
            "the names of tensors in GGUF files come from the library gguf: install "
            '"gen-worker[conversion]"'
        ) from error
    return gguf


def named_tensors(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    architecture: Architecture,
    file: str,
) -> tuple[dict[str, LazyTensor], tuple[str, ...]]:
    """Return the tensors by their new names, layer by layer, and the names of those left out.

    Args:
        checkpoint: Of transformers.
        config: What `config.json` says.
        architecture: Of the model.
        file: Path of the configuration, for messages.

    Raises:
        GgufSourceError: A tensor has no name there, or a layer is missing.
    """
    gguf = gguf_package()
    layers = number_of(config, "num_hidden_layers", file)
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(kind, layers)
    made = _extra(config, architecture, file)
    unused: list[str] = []
    for name, tensor in checkpoint.items():
        plain = _plain(name, architecture)
        if _is_unused(plain, config, architecture):
            unused.append(name)
            continue
        new = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise GgufSourceError(
                f"the tensor {name!r} has no name in GGUF files of {architecture.name}: is it a "
                "part of this model?",
                code="gguf_unknown_tensor",
                tensor=name,
            )
        made[new] = _laid_out(new, tensor, config, architecture, file)
    _check_layers(made, layers, file)
    return {name: made[name] for name in sorted(made, key=by_layer)}, tuple(unused)


def interleaved(tensor: LazyTensor, heads: int) -> LazyTensor:
    """Return the rows of each head with its two halves shuffled like cards, a head at a time."""
    size = tensor.row_count // heads

    def rows(start: int, stop: int) -> Any:
        first, last = start // size, -(-stop // size)
        made = tensor.rows(first * size, last * size)
        shape = (last - first, 2, size // 2, *made.shape[1:])
        made = made.reshape(shape).transpose(1, 2).reshape(made.shape)
        return made[start - first * size : stop - first * size]

    cost = 3 * max(tensor.row_cost_bytes, tensor.row_bytes)  # heads that are cut, and the copy
    return computed(rows, shape=tensor.shape, dtype=tensor.dtype, of=(tensor,), row_cost_bytes=cost)


def _plain(name: str, architecture: Architecture) -> str:
    if not architecture.is_encoder:
        return name
    plain = _ENCODER_PREFIX.sub("", name)
    if plain.endswith(".gamma"):
        return f"{plain.removesuffix('gamma')}weight"
    return f"{plain.removesuffix('beta')}bias" if plain.endswith(".beta") else plain


def _is_unused(name: str, config: Mapping[str, Any], architecture: Architecture) -> bool:
    if name.endswith(_UNUSED):
        return True
    if architecture.is_encoder:
        return name.startswith(_ENCODER_UNUSED)
    is_tied = architecture.has_unused_head or config.get("tie_word_embeddings")
    return name == _HEAD and bool(is_tied)


def _laid_out(
    name: str,
    tensor: LazyTensor,
    config: Mapping[str, Any],
    architecture: Architecture,
    file: str,
) -> LazyTensor:
    if architecture.is_rotated_in_pairs and ".attn_q." in name:
        return interleaved(tensor, number_of(config, "num_attention_heads", file))
    if architecture.is_rotated_in_pairs and ".attn_k." in name:
        return interleaved(tensor, key_heads(config, file))
    if architecture.norm_offset and name.endswith("norm.weight"):
        return _raised(tensor, architecture.norm_offset)
    return tensor


def _raised(tensor: LazyTensor, offset: int) -> LazyTensor:
    return computed(
        lambda start, stop: tensor.rows(start, stop).float() + offset,
        shape=tensor.shape,
        dtype="F32",
        of=(tensor,),
    )


def _extra(
    config: Mapping[str, Any], architecture: Architecture, file: str
) -> dict[str, LazyTensor]:
    """Return the factors of rotations that the formula alone does not give."""
    rope = rope_of(config)
    if architecture.name == "llama" and rope["rope_type"] == "llama3":
        return {"rope_freqs.weight": _values(_llama3_factors(rope, head_size(config, file)))}
    made = {}
    if architecture.name == "phi3" and rope["rope_type"] in ("su", "longrope"):
        for kind in ("long", "short"):
            made[f"rope_factors_{kind}.weight"] = _values(rope[f"{kind}_factor"])
    return made


def _llama3_factors(rope: Mapping[str, Any], size: int) -> list[float]:
    """Return what frequencies are divided by: `_compute_llama3_parameters` of transformers."""
    factor = float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    made = []
    for index in range(0, size, 2):
        length = 2 * math.pi * float(rope.get("rope_theta", 10000.0)) ** (index / size)
        share = min(max((original / length - low) / (high - low), 0.0), 1.0)
        made.append(1 / ((1 - share) / factor + share))
    return made


def _values(numbers: list[float]) -> LazyTensor:
    def rows(start: int, stop: int) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        return torch.tensor(numbers[start:stop], dtype=torch.float32)

    return computed(rows, shape=(len(numbers),), dtype="F32", of=())


def _check_layers(tensors: Mapping[str, LazyTensor], layers: int, file: str) -> None:
    missing = sorted(set(range(layers)) - set(map(layer_of, tensors)))
    if missing or "token_embd.weight" not in tensors:
        what = f"layer {missing[0]}" if missing else "the embedding of tokens"
        raise GgufSourceError(
            f"{file!r} speaks of {layers} layers, and the weights lack {what}: is a file missing?",
            code="gguf_missing_tensor",
            file=file,
        )
