"""The transformer of Stable Diffusion 3 and 3.5: `joint_blocks` of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.layout.moves import Fused, Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["sd3_moves"]

_ENDS = (
    ("x_embedder.proj", "pos_embed.proj"),
    ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    ("context_embedder", "context_embedder"),
    ("final_layer.linear", "proj_out"),
)
_IMAGE = (
    ("adaLN_modulation.1", "norm1.linear"),
    ("attn.proj", "attn.to_out.0"),
    ("mlp.fc1", "ff.net.0.proj"),
    ("mlp.fc2", "ff.net.2"),
)
_TEXT = (
    ("adaLN_modulation.1", "norm1_context.linear"),
    ("attn.proj", "attn.to_add_out"),
    ("mlp.fc1", "ff_context.net.0.proj"),
    ("mlp.fc2", "ff_context.net.2"),
)


def sd3_moves(config: Mapping[str, Any]) -> Iterator[Move | Fused]:
    """Yield the moves of a transformer with this configuration of `SD3Transformer2DModel`."""
    yield from (Move(original, diffusers) for original, diffusers in _ENDS)
    yield Move("pos_embed", "pos_embed.pos_embed", is_optional=True)
    # The original says shift and scale, diffusers scale and shift.
    yield Move("final_layer.adaLN_modulation.1", "norm_out.linear", "halves_swapped")
    has_norm = bool(config.get("qk_norm"))
    dual = config.get("dual_attention_layers") or ()
    last = config["num_layers"] - 1
    for number in range(last + 1):
        image = f"joint_blocks.{number}.x_block"
        text = f"joint_blocks.{number}.context_block"
        theirs = f"transformer_blocks.{number}"
        yield from (Move(f"{image}.{one}", f"{theirs}.{other}") for one, other in _IMAGE)
        yield from _text(text, theirs, is_last=number == last)
        yield from _attention(f"{image}.attn", f"{theirs}.attn", "to_{}", "norm_{}", has_norm)
        names = "add_{}_proj", "norm_added_{}"
        yield from _attention(f"{text}.attn", f"{theirs}.attn", *names, has_norm)
        if number in dual:
            yield Move(f"{image}.attn2.proj", f"{theirs}.attn2.to_out.0")
            names = "to_{}", "norm_{}"
            yield from _attention(f"{image}.attn2", f"{theirs}.attn2", *names, has_norm)


def _text(original: str, diffusers: str, *, is_last: bool) -> Iterator[Move]:
    """Yield the text's side; the last block needs no more than the norm before its attention."""
    if is_last:
        modulation, norm = _TEXT[0]
        yield Move(f"{original}.{modulation}", f"{diffusers}.{norm}", "halves_swapped")
    else:
        yield from (Move(f"{original}.{one}", f"{diffusers}.{other}") for one, other in _TEXT)


def _attention(
    original: str, diffusers: str, projection: str, norm: str, has_norm: bool
) -> Iterator[Move | Fused]:
    for kind in ("weight", "bias"):
        parts = tuple(f"{diffusers}.{projection.format(name)}.{kind}" for name in "qkv")
        yield Fused(f"{original}.qkv.{kind}", parts)
    if has_norm:
        for name in "qk":
            yield Move(f"{original}.ln_{name}", f"{diffusers}.{norm.format(name)}")
