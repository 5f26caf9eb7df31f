"""The UNet of Stable Diffusion 1, 2 and XL: `input_blocks` and `output_blocks` of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.layout.moves import Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["unet_moves"]

_RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
)
_ENDS = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
)
_LABELS = (("label_emb.0.0", "add_embedding.linear_1"), ("label_emb.0.2", "add_embedding.linear_2"))


def unet_moves(config: Mapping[str, Any]) -> Iterator[Move]:
    """Yield the moves of a UNet with this configuration of `UNet2DConditionModel`."""
    ends = (*_ENDS, *(_LABELS if config.get("addition_embed_type") == "text_time" else ()))
    yield from (Move(original, diffusers) for original, diffusers in ends)
    yield from _down(config)
    yield from _resnet("middle_block.0", "mid_block.resnets.0")
    yield Move("middle_block.1", "mid_block.attentions.0")
    yield from _resnet("middle_block.2", "mid_block.resnets.1")
    yield from _up(config)


def _down(config: Mapping[str, Any]) -> Iterator[Move]:
    kinds = config["down_block_types"]
    number = 1
    for block, (kind, layers) in enumerate(zip(kinds, _layers(config), strict=True)):
        for layer in range(layers):
            theirs = f"down_blocks.{block}"
            yield from _resnet(f"input_blocks.{number}.0", f"{theirs}.resnets.{layer}")
            if "CrossAttn" in kind:
                yield Move(f"input_blocks.{number}.1", f"{theirs}.attentions.{layer}")
            number += 1
        if block < len(kinds) - 1:
            yield Move(f"input_blocks.{number}.0.op", f"{theirs}.downsamplers.0.conv")
            number += 1


def _up(config: Mapping[str, Any]) -> Iterator[Move]:
    kinds = config["up_block_types"]
    number = 0
    for block, (kind, layers) in enumerate(zip(kinds, reversed(_layers(config)), strict=True)):
        has_attention = "CrossAttn" in kind
        theirs = f"up_blocks.{block}"
        for layer in range(layers + 1):
            yield from _resnet(f"output_blocks.{number}.0", f"{theirs}.resnets.{layer}")
            if has_attention:
                yield Move(f"output_blocks.{number}.1", f"{theirs}.attentions.{layer}")
            number += 1
        if block < len(kinds) - 1:
            place = 2 if has_attention else 1
            yield Move(f"output_blocks.{number - 1}.{place}.conv", f"{theirs}.upsamplers.0.conv")


def _resnet(original: str, diffusers: str) -> Iterator[Move]:
    for ours, theirs in _RESNET:
        yield Move(f"{original}.{ours}", f"{diffusers}.{theirs}")
    # Only where the number of channels changes.
    yield Move(f"{original}.skip_connection", f"{diffusers}.conv_shortcut", is_optional=True)


def _layers(config: Mapping[str, Any]) -> list[int]:
    """Return how many layers each block has on the way down."""
    layers = config.get("layers_per_block", 2)
    return [layers] * len(config["down_block_types"]) if isinstance(layers, int) else list(layers)
