"""A tiny Stable Diffusion as one checkpoint file, in the layout it was first published in."""

from __future__ import annotations

import os
import re
from typing import Any

from gen_worker.models.loading.libraries import library

__all__ = ["to_single_file"]

# diffusers -> the original code, for two resolutions with one layer each.
_UNET_BLOCKS = (
    ("conv_in", "input_blocks.0.0"),
    ("down_blocks.0.resnets.0", "input_blocks.1.0"),
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
    ("down_blocks.1.resnets.0", "input_blocks.3.0"),
    ("down_blocks.1.attentions.0", "input_blocks.3.1"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
    ("up_blocks.0.resnets.0", "output_blocks.0.0"),
    ("up_blocks.0.attentions.0", "output_blocks.0.1"),
    ("up_blocks.0.resnets.1", "output_blocks.1.0"),
    ("up_blocks.0.attentions.1", "output_blocks.1.1"),
    ("up_blocks.0.upsamplers.0.conv", "output_blocks.1.2.conv"),
    ("up_blocks.1.resnets.0", "output_blocks.2.0"),
    ("up_blocks.1.resnets.1", "output_blocks.3.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
_UNET_RESNET = (
    (".norm1.", ".in_layers.0."),
    (".conv1.", ".in_layers.2."),
    (".time_emb_proj.", ".emb_layers.1."),
    (".norm2.", ".out_layers.0."),
    (".conv2.", ".out_layers.3."),
    (".conv_shortcut.", ".skip_connection."),
)
_VAE = (
    (r"(encoder\.down)_blocks\.(\d)\.resnets\.", r"\1.\2.block."),
    (r"(encoder\.down)_blocks\.(\d)\.downsamplers\.0\.", r"\1.\2.downsample."),
    (r"decoder\.up_blocks\.0\.resnets\.", "decoder.up.1.block."),
    (r"decoder\.up_blocks\.1\.resnets\.", "decoder.up.0.block."),
    (r"decoder\.up_blocks\.0\.upsamplers\.0\.", "decoder.up.1.upsample."),
    (r"mid_block\.resnets\.0\.", "mid.block_1."),
    (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"mid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
    (r"conv_norm_out\.", "norm_out."),
    (r"conv_shortcut\.", "nin_shortcut."),
)


def to_single_file(file: str | os.PathLike[str], pipeline: Any) -> str:
    """Save a live tiny Stable Diffusion as one safetensors file; return the file.

    Args:
        file: Where it goes.
        pipeline: Loaded from what `tiny_stable_diffusion` saved.
    """
    tensors = {
        **_named("model.diffusion_model", pipeline.unet, _unet_name),
        **_named("first_stage_model", pipeline.vae, _vae_name),
        **_named("cond_stage_model.transformer", pipeline.text_encoder, _text_name),
    }
    path = os.fspath(file)
    library("safetensors.torch").save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path
    )
    return path


def _named(prefix: str, module: Any, name_of: Any) -> dict[str, Any]:
    found = {}
    for name, tensor in module.state_dict().items():
        renamed = name_of(name)
        is_attention = "mid.attn_1" in renamed and tensor.ndim == 2
        found[f"{prefix}.{renamed}"] = tensor[:, :, None, None] if is_attention else tensor
    return found


def _unet_name(name: str) -> str:
    for theirs, original in _UNET_BLOCKS:
        if name.startswith(f"{theirs}."):
            name = original + name.removeprefix(theirs)
            break
    for theirs, original in _UNET_RESNET:
        name = name.replace(theirs, original) if "transformer_blocks" not in name else name
    return name


def _vae_name(name: str) -> str:
    for pattern, replacement in _VAE:
        name = re.sub(pattern, replacement, name)
    return name


def _text_name(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"
