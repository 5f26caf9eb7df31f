"""The transformer of FLUX.1: `double_blocks` and `single_blocks` of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.layout.moves import Fused, Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["flux_moves"]

_MLP_RATIO = 4
"""Of every FLUX.1; `FluxTransformer2DModel` takes no other."""
_ENDS = (
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    ("final_layer.linear", "proj_out"),
)
_EMBEDDERS = (("time_in", "timestep_embedder"), ("vector_in", "text_embedder"))
_DOUBLE = (
    ("img_mod.lin", "norm1.linear"),
    ("txt_mod.lin", "norm1_context.linear"),
    ("img_attn.proj", "attn.to_out.0"),
    ("txt_attn.proj", "attn.to_add_out"),
    ("img_mlp.0", "ff.net.0.proj"),
    ("img_mlp.2", "ff.net.2"),
    ("txt_mlp.0", "ff_context.net.0.proj"),
    ("txt_mlp.2", "ff_context.net.2"),
    ("img_attn.norm.query_norm.scale", "attn.norm_q.weight"),
    ("img_attn.norm.key_norm.scale", "attn.norm_k.weight"),
    ("txt_attn.norm.query_norm.scale", "attn.norm_added_q.weight"),
    ("txt_attn.norm.key_norm.scale", "attn.norm_added_k.weight"),
)
_SINGLE = (
    ("modulation.lin", "norm.linear"),
    ("linear2", "proj_out"),
    ("norm.query_norm.scale", "attn.norm_q.weight"),
    ("norm.key_norm.scale", "attn.norm_k.weight"),
)
_KINDS = ("weight", "bias")


def flux_moves(config: Mapping[str, Any]) -> Iterator[Move | Fused]:
    """Yield the moves of a transformer with this configuration of `FluxTransformer2DModel`."""
    yield from (Move(original, diffusers) for original, diffusers in _ENDS)
    # The original says shift and scale, diffusers scale and shift.
    yield Move("final_layer.adaLN_modulation.1", "norm_out.linear", "halves_swapped")
    guidance = [("guidance_in", "guidance_embedder")] if config.get("guidance_embeds") else []
    for original, diffusers in (*_EMBEDDERS, *guidance):
        yield Move(f"{original}.in_layer", f"time_text_embed.{diffusers}.linear_1")
        yield Move(f"{original}.out_layer", f"time_text_embed.{diffusers}.linear_2")
    for number in range(config["num_layers"]):
        yield from _double(f"double_blocks.{number}", f"transformer_blocks.{number}")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    for number in range(config["num_single_layers"]):
        yield from _single(f"single_blocks.{number}", f"single_transformer_blocks.{number}", width)


def _double(original: str, diffusers: str) -> Iterator[Move | Fused]:
    yield from (Move(f"{original}.{one}", f"{diffusers}.{other}") for one, other in _DOUBLE)
    for side, projection in (("img", "to_{}"), ("txt", "add_{}_proj")):
        for kind in _KINDS:
            parts = tuple(f"{diffusers}.attn.{projection.format(name)}.{kind}" for name in "qkv")
            yield Fused(f"{original}.{side}_attn.qkv.{kind}", parts)


def _single(original: str, diffusers: str, width: int) -> Iterator[Move | Fused]:
    yield from (Move(f"{original}.{one}", f"{diffusers}.{other}") for one, other in _SINGLE)
    for kind in _KINDS:
        attention = (f"{diffusers}.attn.to_{name}.{kind}" for name in "qkv")
        parts = (*attention, f"{diffusers}.proj_mlp.{kind}")
        yield Fused(f"{original}.linear1.{kind}", parts, (width, width, width, _MLP_RATIO * width))
