"""Text encoders: CLIP as transformers has it, and as OpenCLIP has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.layout.moves import Fused, Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["clip_moves", "open_clip_moves"]

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
    config: Mapping[str, Any], prefix: str = "text_model"
) -> Iterator[Move | Fused]:
    """Yield the moves of a text encoder of OpenCLIP.

    Args:
        config: Of `CLIPTextModel`.
        prefix: What the names on disk begin with; empty for files of transformers 5.
    """
    start = f"{prefix}." if prefix else ""
    yield Move("positional_embedding", f"{start}embeddings.position_embedding.weight")
    yield Move("token_embedding", f"{start}embeddings.token_embedding")
    yield Move("ln_final", f"{start}final_layer_norm")
    yield Move("text_projection", "text_projection.weight", "transposed", is_optional=True)
    for number in range(config["num_hidden_layers"]):
        original = f"transformer.resblocks.{number}"
        theirs = f"{start}encoder.layers.{number}"
        yield from (Move(f"{original}.{one}", f"{theirs}.{other}") for one, other in _LAYER)
        for kind in ("weight", "bias"):
            parts = tuple(f"{theirs}.self_attn.{name}_proj.{kind}" for name in "qkv")
            yield Fused(f"{original}.attn.in_proj_{kind}", parts)
