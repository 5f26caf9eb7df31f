"""Configurations of denoisers and autoencoders, as the shapes of their original tensors say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.lazy import LazyTensor

__all__ = ["count_of", "flux_config", "sd3_config", "unet_config", "vae_config"]

_VAE_FACTS: Mapping[str, dict[str, Any]] = {
    "sd15": {"scaling_factor": 0.18215, "sample_size": 512},
    "sd2": {"scaling_factor": 0.18215, "sample_size": 768},
    "sdxl": {"scaling_factor": 0.13025, "sample_size": 1024},
    "sdxl-refiner": {"scaling_factor": 0.13025, "sample_size": 1024},
    "sd3": {"scaling_factor": 1.5305, "shift_factor": 0.0609, "sample_size": 1024},
    "flux1": {"scaling_factor": 0.3611, "shift_factor": 0.1159, "sample_size": 1024},
}
"""What no tensor says of the autoencoder that a family is published with."""
_HEAD = 64
"""Width of an attention head, in all but Stable Diffusion 1, which has 8 heads of any width."""


def count_of(tensors: Mapping[str, LazyTensor], prefix: str) -> int:
    """Return how many modules a numbered list has: one more than the largest number."""
    found = (name[len(prefix) :].partition(".")[0] for name in tensors if name.startswith(prefix))
    return max((int(number) + 1 for number in found if number.isdigit()), default=0)


def unet_config(tensors: Mapping[str, LazyTensor], family: str) -> dict[str, Any]:
    """Return the configuration of a `UNet2DConditionModel`."""
    blocks = _unet_blocks(tensors)
    channels = [block["channels"] for block in blocks]
    kinds = ["CrossAttnDownBlock2D" if block["depth"] else "DownBlock2D" for block in blocks]
    middle = count_of(tensors, "middle_block.1.transformer_blocks.")
    depths = [block["depth"] or 1 for block in blocks]
    text = tensors["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    heads: Any = 8 if family == "sd15" else [width // _HEAD for width in channels]
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": tensors["input_blocks.0.0.weight"].shape[1],
        "out_channels": tensors["out.2.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": blocks[0]["layers"],
        "down_block_types": kinds,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(kinds)],
        "transformer_layers_per_block": [*depths[:-1], middle],
        "attention_head_dim": heads,
        "cross_attention_dim": text,
        "use_linear_projection": len(tensors["middle_block.1.proj_in.weight"].shape) == 2,
        "sample_size": 64 if family == "sd15" else 128,
    }
    labels = tensors.get("label_emb.0.0.weight")
    if labels is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": labels.shape[1],
        }
    return config


def _unet_blocks(tensors: Mapping[str, LazyTensor]) -> list[dict[str, int]]:
    """Return channels, layers and depth of the attention of each block on the way down."""
    blocks = [{"channels": 0, "layers": 0, "depth": 0}]
    for number in range(1, count_of(tensors, "input_blocks.")):
        if f"input_blocks.{number}.0.op.weight" in tensors:
            blocks.append({"channels": 0, "layers": 0, "depth": 0})
            continue
        block = blocks[-1]
        block["channels"] = tensors[f"input_blocks.{number}.0.out_layers.3.weight"].shape[0]
        block["depth"] = count_of(tensors, f"input_blocks.{number}.1.transformer_blocks.")
        block["layers"] += 1
    return blocks


def vae_config(tensors: Mapping[str, LazyTensor], family: str) -> dict[str, Any]:
    """Return the configuration of an `AutoencoderKL`."""
    blocks = count_of(tensors, "encoder.down.")
    channels = [
        tensors[f"encoder.down.{number}.block.0.conv1.weight"].shape[0] for number in range(blocks)
    ]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0],
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": count_of(tensors, "encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "norm_num_groups": 32,
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
        "mid_block_add_attention": "encoder.mid.attn_1.norm.weight" in tensors,
        "force_upcast": True,
        **_VAE_FACTS[family],
    }


def sd3_config(tensors: Mapping[str, LazyTensor]) -> dict[str, Any]:
    """Return the configuration of an `SD3Transformer2DModel`."""
    width, text = tensors["context_embedder.weight"].shape
    patches = tensors["x_embedder.proj.weight"].shape
    norm = tensors.get("joint_blocks.0.x_block.attn.ln_q.weight")
    head = norm.shape[0] if norm is not None else _HEAD
    layers = count_of(tensors, "joint_blocks.")
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patches[-1],
        "in_channels": patches[1],
        "out_channels": tensors["final_layer.linear.weight"].shape[0] // patches[-1] ** 2,
        "num_layers": layers,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "caption_projection_dim": width,
        "joint_attention_dim": text,
        "pooled_projection_dim": tensors["y_embedder.mlp.0.weight"].shape[1],
        "pos_embed_max_size": math.isqrt(tensors["pos_embed"].shape[1]),
        "qk_norm": "rms_norm" if norm is not None else None,
        "dual_attention_layers": [
            number
            for number in range(layers)
            if f"joint_blocks.{number}.x_block.attn2.qkv.weight" in tensors
        ],
    }


def flux_config(tensors: Mapping[str, LazyTensor]) -> dict[str, Any]:
    """Return the configuration of a `FluxTransformer2DModel`."""
    width, channels = tensors["img_in.weight"].shape
    head = tensors["double_blocks.0.img_attn.norm.query_norm.scale"].shape[0]
    made = tensors["final_layer.linear.weight"].shape[0]
    return {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": None if made == channels else made,
        "num_layers": count_of(tensors, "double_blocks."),
        "num_single_layers": count_of(tensors, "single_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": tensors["txt_in.weight"].shape[1],
        "pooled_projection_dim": tensors["vector_in.in_layer.weight"].shape[1],
        "guidance_embeds": "guidance_in.in_layer.weight" in tensors,
        "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],
    }
