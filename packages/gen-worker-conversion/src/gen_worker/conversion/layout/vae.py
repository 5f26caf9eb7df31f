"""The autoencoder of Stable Diffusion and Flux: `AutoencoderKL`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.layout.moves import Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = ["vae_moves", "with_current_names"]

_ENDS = (("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out"))
_RESNET = ("norm1", "conv1", "norm2", "conv2")
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What diffusers before 0.17 called the layers of an attention; files still do."""
_ATTENTION = (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))


def vae_moves(config: Mapping[str, Any]) -> Iterator[Move]:
    """Yield the moves of an autoencoder with this configuration."""
    blocks = len(config["block_out_channels"])
    layers = config.get("layers_per_block", 1)
    for half in ("encoder", "decoder"):
        yield from (Move(f"{half}.{ours}", f"{half}.{theirs}") for ours, theirs in _ENDS)
        yield from _middle(half, has_attention=config.get("mid_block_add_attention", True))
    for block in range(blocks):
        down = f"encoder.down.{block}", f"encoder.down_blocks.{block}"
        up = f"decoder.up.{blocks - 1 - block}", f"decoder.up_blocks.{block}"
        yield from _resnets(*down, layers)
        yield from _resnets(*up, layers + 1)
        if block < blocks - 1:
            yield Move(f"{down[0]}.downsample", f"{down[1]}.downsamplers.0")
            yield Move(f"{up[0]}.upsample", f"{up[1]}.upsamplers.0")
    if config.get("use_quant_conv", True):
        yield Move("quant_conv", "quant_conv")
    if config.get("use_post_quant_conv", True):
        yield Move("post_quant_conv", "post_quant_conv")


def with_current_names(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """Give an autoencoder in a folder of diffusers the names that its class has today."""
    return {_current(name): tensor for name, tensor in checkpoint.items()}


def _current(name: str) -> str:
    start, _, end = name.partition(".mid_block.attentions.0.")
    layer, _, kind = end.partition(".")
    new = _OLD_ATTENTION.get(layer)
    return f"{start}.mid_block.attentions.0.{new}.{kind}" if new else name


def _middle(half: str, *, has_attention: bool) -> Iterator[Move]:
    for index in range(2):
        yield from _resnet(f"{half}.mid.block_{index + 1}", f"{half}.mid_block.resnets.{index}")
    if not has_attention:
        return
    attention = f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0"
    yield Move(f"{attention[0]}.norm", f"{attention[1]}.group_norm")
    for ours, theirs in _ATTENTION:
        yield Move(f"{attention[0]}.{ours}", f"{attention[1]}.{theirs}", "convolution")


def _resnets(original: str, diffusers: str, count: int) -> Iterator[Move]:
    for index in range(count):
        yield from _resnet(f"{original}.block.{index}", f"{diffusers}.resnets.{index}")


def _resnet(original: str, diffusers: str) -> Iterator[Move]:
    for name in _RESNET:
        yield Move(f"{original}.{name}", f"{diffusers}.{name}")
    # Only where the number of channels changes.
    yield Move(f"{original}.nin_shortcut", f"{diffusers}.conv_shortcut", is_optional=True)
