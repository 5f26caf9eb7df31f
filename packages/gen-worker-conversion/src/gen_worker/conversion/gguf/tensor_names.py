"""The tensors of a transformers model, named and laid out as llama.cpp wants them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.architectures import ARCHITECTURES
from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.experts import one_by_one, stacked_experts
from gen_worker.conversion.gguf.hyperparameters import (
    first_position,
    head_size,
    key_heads,
    number_of,
)
from gen_worker.conversion.gguf.mixes import by_layer, layer_of
from gen_worker.conversion.gguf.rotations import rotation_tensors
from gen_worker.conversion.lazy import LazyTensor, computed, narrow, reshape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.architectures import Architecture
    from gen_worker.conversion.lazy import Checkpoint

__all__ = [
    "gguf_package",
    "interleaved",
    "laid_out",
    "name_in_gguf",
    "name_map",
    "named_tensors",
    "renamed_back",
]

_UNUSED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias", ".position_ids")
_ENCODER_PREFIX = re.compile(r"^(bert|roberta|model)\.(?=embeddings|encoder|pooler)")
_ENCODER_UNUSED = ("pooler.", "cls.", "classifier.", "lm_head.")
_POSITIONS = "position_embd.weight"
_HEAD = "lm_head.weight"
_TOKENIZER = "tokenizer.ggml.model"
_HEADS = "attention.head_count"
_COMPUTED = ("rope_freqs", "rope_factors_long", "rope_factors_short")
"""Not of the source: made of its configuration."""
_DECODER = (
    ("model.embed_tokens", "model.norm", "lm_head"),
    "model.layers",
    (
        *("input_layernorm", "post_attention_layernorm"),
        *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
        *(f"self_attn.{part}_proj" for part in ("q", "k", "v", "o")),
        *("self_attn.q_norm", "self_attn.k_norm"),
        *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    ),
)
"""Names of transformers without endings: outside of layers, of layers, and in one."""
_FUSED = ("self_attn.qkv_proj", "mlp.gate_up_proj")
_EXPERTS = (
    *(f"mlp.experts.{part}_proj" for part in ("gate", "up", "down")),
    *(f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")),
    "mlp.shared_expert_gate",
)
_ONE_ROW = ".ffn_gate_inp_shexp"
"""A single row in transformers, and in GGUF files a vector."""
_ENCODER = (
    (
        *(f"embeddings.{part}_embeddings" for part in ("word", "position", "token_type")),
        "embeddings.LayerNorm",
    ),
    "encoder.layer",
    (
        *(f"attention.self.{part}" for part in ("query", "key", "value")),
        *("attention.output.dense", "attention.output.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    ),
)


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
    layers = number_of(config, "num_hidden_layers", file)
    names = name_map(architecture, layers)
    made: dict[str, LazyTensor] = {}
    if not architecture.is_encoder:
        made |= rotation_tensors(config, head_size(config, file), file)
    unused: list[str] = []
    for name, tensor in stacked_experts(checkpoint, config).items():
        if _is_unused(_plain(name, architecture), config, architecture):
            unused.append(name)
            continue
        new = name_in_gguf(names, name, architecture)
        made[new] = laid_out(new, tensor, config, architecture, file)
    _check_layers(made, layers, file)
    return {name: made[name] for name in sorted(made, key=by_layer)}, tuple(unused)


def name_map(architecture: Architecture, layers: int) -> Any:
    """Return the library's table of the names of an architecture."""
    gguf = gguf_package()
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    return gguf.get_tensor_name_map(kind, layers)


def name_in_gguf(names: Any, name: str, architecture: Architecture) -> str:
    """Return what a tensor of transformers is called.

    Raises:
        GgufSourceError: It has no name there.
    """
    found = names.get_name(_plain(name, architecture), try_suffixes=(".weight", ".bias"))
    if found is None:
        raise _unnamed(name, f"GGUF files of {architecture.name}")
    return str(found)


def renamed_back(
    tensors: Checkpoint, metadata: Mapping[str, Any], file: str
) -> dict[str, LazyTensor]:
    """Return the tensors of a GGUF file by the names of transformers, and in its order of rows.

    Args:
        tensors: Unpacked.
        metadata: Of the file.
        file: Its path, for messages.

    Raises:
        GgufSourceError: It is of no architecture that is known, or a tensor is.
    """
    said = metadata.get("general.architecture")
    architecture = next((one for one in ARCHITECTURES if one.name == said), None)
    layers, heads = (metadata.get(f"{said}.{key}") for key in ("block_count", _HEADS))
    if architecture is None or not isinstance(layers, int) or not isinstance(heads, int):
        raise GgufSourceError(
            f"{file!r} is of the architecture {said!r}: only language models of "
            f"{', '.join(one.name for one in ARCHITECTURES)} have names in transformers here",
            code="unsupported_gguf_architecture_from_config",
            file=file,
        )
    if architecture.is_encoder and metadata.get(_TOKENIZER, "bert") != "bert":
        raise GgufSourceError(
            f"{file!r} lacks the positions that its model has before the first: start from the "
            "model that it was made of",
            code="unsupported_gguf_architecture_from_config",
            file=file,
        )
    if layers > len(tensors):
        raise GgufSourceError(
            f"{file!r} speaks of {layers} layers and has {len(tensors)} tensors: fetch it again",
            code="gguf_missing_tensor",
            file=file,
        )
    names = _source_names(architecture, layers)
    made: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        base, _, ending = name.rpartition(".")
        if base in _COMPUTED:
            continue
        if base not in names:
            raise _unnamed(name, f"transformers models of {architecture.name}")
        pairs = metadata.get(f"{said}.{_HEADS}_kv", heads) if base.endswith("attn_k") else heads
        if architecture.is_rotated_in_pairs and base.endswith(("attn_q", "attn_k")):
            tensor = interleaved(tensor, pairs, is_undone=True)
        if architecture.norm_offset and name.endswith("norm.weight"):
            tensor = _raised(tensor, -architecture.norm_offset)
        if base.endswith(_ONE_ROW):
            tensor = reshape(tensor, (1, *tensor.shape))
        apart = one_by_one(names[base], tensor, is_mixtral=architecture.name == "llama")
        made |= apart or {f"{names[base]}.{ending}": tensor}
    return made


def _source_names(architecture: Architecture, layers: int) -> dict[str, str]:
    """Return names of transformers by those in GGUF files, both without endings."""
    there = name_map(architecture, layers)
    whole, prefix, parts = _DECODER if not architecture.is_encoder else _ENCODER
    parts = (*parts, *(_FUSED if architecture.is_fused else ()))
    if architecture.has_experts:
        parts = (*parts, *_EXPERTS)
        parts += ("block_sparse_moe.gate",) if architecture.name == "llama" else ("mlp.gate",)
    wanted = [*whole, *(f"{prefix}.{n}.{part}" for n in range(layers) for part in parts)]
    found = {there.get_name(name): name for name in wanted}
    return {new: name for new, name in found.items() if new is not None}


def _unnamed(name: str, where: str) -> GgufSourceError:
    return GgufSourceError(
        f"the tensor {name!r} has no name in {where}: is it a part of this model?",
        code="gguf_unknown_tensor",
        tensor=name,
    )


def interleaved(tensor: LazyTensor, heads: int, *, is_undone: bool = False) -> LazyTensor:
    """Return the rows of each head with its two halves shuffled like cards, a head at a time.

    Args:
        tensor: Weights or biases of queries or keys.
        heads: How many there are.
        is_undone: Whether shuffled rows are put in order again.
    """
    size = tensor.row_count // heads
    halves = (size // 2, 2) if is_undone else (2, size // 2)

    def rows(start: int, stop: int) -> Any:
        first, last = start // size, -(-stop // size)
        made = tensor.rows(first * size, last * size)
        shape = (last - first, *halves, *made.shape[1:])
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


def laid_out(
    name: str,
    tensor: LazyTensor,
    config: Mapping[str, Any],
    architecture: Architecture,
    file: str,
) -> LazyTensor:
    """Return a tensor with the rows and values that llama.cpp wants.

    Args:
        name: Its new name.
        tensor: As transformers has it; of queries and keys any number of columns will do.
        config: What `config.json` says.
        architecture: Of the model.
        file: Path of the configuration, for messages.
    """
    if architecture.is_rotated_in_pairs and ".attn_q." in name:
        return interleaved(tensor, number_of(config, "num_attention_heads", file))
    if architecture.is_rotated_in_pairs and ".attn_k." in name:
        return interleaved(tensor, key_heads(config, file))
    if architecture.norm_offset and name.endswith("norm.weight"):
        return _raised(tensor, architecture.norm_offset)
    if name == _POSITIONS and first_position(config):
        first = first_position(config)
        return narrow(tensor, 0, first, tensor.row_count - first)
    return reshape(tensor, (-1,)) if f"{_ONE_ROW}." in name else tensor


def _raised(tensor: LazyTensor, offset: int) -> LazyTensor:
    return computed(
        lambda start, stop: tensor.rows(start, stop).float() + offset,
        shape=tensor.shape,
        dtype="F32",
        of=(tensor,),
    )


def _check_layers(tensors: Mapping[str, LazyTensor], layers: int, file: str) -> None:
    missing = sorted(set(range(layers)) - set(map(layer_of, tensors)))
    if missing or "token_embd.weight" not in tensors:
        what = f"layer {missing[0]}" if missing else "the embedding of tokens"
        raise GgufSourceError(
            f"{file!r} speaks of {layers} layers, and the weights lack {what}: is a file missing?",
            code="gguf_missing_tensor",
            file=file,
        )
