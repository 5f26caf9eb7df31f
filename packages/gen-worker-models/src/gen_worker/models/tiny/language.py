"""A tiny language model."""

from __future__ import annotations

import os

from gen_worker.models.loading.libraries import library
from gen_worker.models.tiny.tokens import text_tokenizer

__all__ = ["tiny_llama"]


def tiny_llama(directory: str | os.PathLike[str], *, seed: int = 0, shard_size: str = "5GB") -> str:
    """Save a Llama model of 0.04 million parameters, with its tokenizer.

    Args:
        directory: Where it goes; made when it is not there.
        seed: Of the weights.
        shard_size: Largest weights file, such as `50KB`.

    Returns:
        The directory.
    """
    transformers = library("transformers")
    library("torch").manual_seed(seed)
    path = os.fspath(directory)
    tokenizer = text_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config)
    generation = transformers.GenerationConfig(pad_token_id=tokenizer.pad_token_id)
    model.generation_config = generation
    model.save_pretrained(path, max_shard_size=shard_size)
    tokenizer.save_pretrained(path)
    return path
