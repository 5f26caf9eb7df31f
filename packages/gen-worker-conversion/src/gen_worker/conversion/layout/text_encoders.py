"""Text encoders: CLIP as transformers has it and as OpenCLIP has it, and T5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.layout.moves import Fused, Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = [
    "clip_moves",
    "open_clip_moves",
    "t5_moves",
    "with_both_embeddings",
    "with_one_embedding",
]

_SHARED = "shared.weight"
_EMBEDDING = "encoder.embed_tokens.weight"
_LAYER = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


def clip_moves(prefix: str = "text_model") -> Iterator[Move]:
    """Yield the moves of a CLIP whose original is that of transformers.

    Args:
        prefix: What the names on disk begin with; empty for files of transformers 5.
    """
    for part in ("embeddings", "encoder", "final_layer_norm"):
        yield Move(f"text_model.{part}", f"{prefix}.{part}" if prefix else part)
    yield Move("text_projection", "text_projection", is_optional=True)


def open_clip_moves(
    config: Mapping[str, Any], prefix: str = "text_model", *, has_projection: bool = True
) -> Iterator[Move | Fused]:
    """Yield the moves of a text encoder of OpenCLIP.

    Args:
        config: Of `CLIPTextModel`. Stable Diffusion 2 uses 23 of the original's 24 layers.
        prefix: What the names on disk begin with; empty for files of transformers 5.
        has_projection: Whether the class has a place for it.
    """
    start = f"{prefix}." if prefix else ""
    yield Move("positional_embedding", f"{start}embeddings.position_embedding.weight")
    yield Move("token_embedding", f"{start}embeddings.token_embedding")
    yield Move("ln_final", f"{start}final_layer_norm")
    if has_projection:
        yield Move("text_projection", "text_projection.weight", "transposed")
    for number in range(config["num_hidden_layers"]):
        original = f"transformer.resblocks.{number}"
        theirs = f"{start}encoder.layers.{number}"
        yield from (Move(f"{original}.{one}", f"{theirs}.{other}") for one, other in _LAYER)
        for kind in ("weight", "bias"):
            parts = tuple(f"{theirs}.self_attn.{name}_proj.{kind}" for name in "qkv")
            yield Fused(f"{original}.attn.in_proj_{kind}", parts)


def t5_moves() -> Iterator[Move]:
    """Yield the moves of the encoder of a T5, whose original is that of transformers."""
    yield Move("shared", "shared")
    yield Move("encoder", "encoder")


def with_both_embeddings(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """Give a T5 its embedding under both of its names, as single files have it.

    Loaders of single files tie no weights: diffusers 0.42 leaves the second one without a value.
    """
    words = checkpoint.get(_SHARED) or checkpoint.get(_EMBEDDING)
    return {**checkpoint, **({_SHARED: words, _EMBEDDING: words} if words is not None else {})}


def with_one_embedding(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """Give a T5 its embedding once, as transformers saves it."""
    words = checkpoint.get(_SHARED) or checkpoint.get(_EMBEDDING)
    made = {name: tensor for name, tensor in checkpoint.items() if name != _EMBEDDING}
    return {**made, **({_SHARED: words} if words is not None else {})}
