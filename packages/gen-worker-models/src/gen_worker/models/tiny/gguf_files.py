"""GGUF files of the tiny models, written by the `gguf` package."""

from __future__ import annotations

import json
import os
from typing import Any

from gen_worker.models.loading.libraries import library

__all__ = ["tiny_flux_gguf", "tiny_llama_gguf"]


def tiny_llama_gguf(file: str | os.PathLike[str], model: str | os.PathLike[str]) -> str:
    """Write a tiny Llama as a GGUF file with its tokenizer; return the file.

    Args:
        file: Where it goes.
        model: What `tiny_llama` saved, in one file.
    """
    gguf = library("gguf")
    folder = os.fspath(model)
    config = _read(os.path.join(folder, "config.json"))
    writer = gguf.GGUFWriter(os.fspath(file), "llama")
    heads, pairs = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(pairs)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, os.path.join(folder, "tokenizer.json"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for key, value in _tensors(os.path.join(folder, "model.safetensors")).items():
        if key.endswith(("q_proj.weight", "k_proj.weight")):
            value = _interleaved(value, heads if "q_proj" in key else pairs)
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight",)), value)
    return _written(writer, file)


def tiny_flux_gguf(file: str | os.PathLike[str], transformer: str | os.PathLike[str]) -> str:
    """Write the transformer of a tiny Flux as a GGUF file in 8 bits; return the file.

    Args:
        file: Where it goes.
        transformer: The folder `transformer` of what `tiny_flux` saved, in one file.
    """
    gguf = library("gguf")
    weights = os.path.join(os.fspath(transformer), "diffusion_pytorch_model.safetensors")
    writer = gguf.GGUFWriter(os.fspath(file), "flux")
    packed = gguf.GGMLQuantizationType.Q8_0
    for key, value in _tensors(weights).items():
        if value.ndim == 2 and value.shape[1] % 32 == 0:
            writer.add_tensor(key, gguf.quants.quantize(value, packed), raw_dtype=packed)
        else:
            writer.add_tensor(key, value)
    return _written(writer, file)


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def _tensors(path: str) -> dict[str, Any]:
    from safetensors.numpy import load_file

    found: dict[str, Any] = load_file(path)
    return found


def _interleaved(value: Any, heads: int) -> Any:
    """Order the rows of a rotated projection as llama.cpp does."""
    rows = value.shape[0]
    return value.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(value.shape)


def _add_tokenizer(writer: Any, path: str) -> None:
    tokenizer = _read(path)
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([x if isinstance(x, str) else " ".join(x) for x in merges])
    writer.add_bos_token_id(special["<s>"])
    writer.add_eos_token_id(special["</s>"])
    writer.add_unk_token_id(special["<unk>"])


def _written(writer: Any, file: str | os.PathLike[str]) -> str:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return os.fspath(file)
