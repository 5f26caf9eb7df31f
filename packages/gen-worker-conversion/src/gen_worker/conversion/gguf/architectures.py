"""Which language models there are GGUF files of, and how their tensors are changed for these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.gguf.errors import GgufSourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ARCHITECTURES", "Architecture", "architecture_of"]


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


ARCHITECTURES = (
    Architecture("llama", ("llama", "mistral"), is_rotated_in_pairs=True),
    Architecture("gemma", ("gemma",), norm_offset=1, has_unused_head=True),
    Architecture("gemma2", ("gemma2",), norm_offset=1, has_unused_head=True),
    Architecture("gemma3", ("gemma3_text",), norm_offset=1, has_unused_head=True),
    Architecture("qwen2", ("qwen2",)),
    Architecture("qwen3", ("qwen3",)),
    Architecture("phi3", ("phi3",), is_fused=True),
    Architecture("bert", ("bert",), is_encoder=True),
)


def architecture_of(config: Mapping[str, Any], file: str) -> Architecture:
    """Return the architecture of a model.

    Args:
        config: What `config.json` says.
        file: Its path, for messages.

    Raises:
        GgufSourceError: It is none of `ARCHITECTURES`.
    """
    wanted = config.get("model_type")
    for architecture in ARCHITECTURES:
        if wanted in architecture.model_types:
            return architecture
    known = ", ".join(name for one in ARCHITECTURES for name in one.model_types)
    raise GgufSourceError(
        f"{file!r} has the model_type {wanted!r}, GGUF files are made of {known}: choose another "
        "format for this model",
        code="unsupported_gguf_architecture_from_config",
        file=file,
    )
