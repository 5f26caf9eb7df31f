"""Tiny Stable Diffusion, SDXL, SD3 and Flux pipelines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from gen_worker.models.loading.libraries import library
from gen_worker.models.tiny.tokens import clip_tokenizer, unigram_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Saving",
    "tiny_flux",
    "tiny_stable_diffusion",
    "tiny_stable_diffusion_3",
    "tiny_stable_diffusion_xl",
]


class Saving(TypedDict, total=False):
    """How a tiny pipeline is made and saved."""

    seed: int
    """Of the weights; 0 by default."""
    shard_bytes: int
    """Largest weights file; 0, the default, saves one per component."""
    variant: str
    """As in `model.<variant>.safetensors`; none by default."""
    dtype: str
    """Precision of the weights; float32 by default."""


def tiny_stable_diffusion(directory: str | os.PathLike[str], **saving: Unpack[Saving]) -> str:
    """Save a Stable Diffusion pipeline of 0.1 million parameters that makes 64 x 64 pixels.

    Args:
        directory: Where it goes; made when it is not there.
        **saving: As in `Saving`.

    Returns:
        The directory.
    """
    return _saved(_stable_diffusion, directory, **saving)


def tiny_stable_diffusion_xl(directory: str | os.PathLike[str], **saving: Unpack[Saving]) -> str:
    """Save an SDXL pipeline of 0.2 million parameters that makes 64 x 64 pixels.

    Arguments and result are those of `tiny_stable_diffusion`.
    """
    return _saved(_stable_diffusion_xl, directory, **saving)


def tiny_stable_diffusion_3(directory: str | os.PathLike[str], **saving: Unpack[Saving]) -> str:
    """Save an SD3 pipeline of 0.2 million parameters; 16 x 16 pixels are enough for it.

    Arguments and result are those of `tiny_stable_diffusion`.
    """
    return _saved(_stable_diffusion_3, directory, **saving)


def tiny_flux(directory: str | os.PathLike[str], **saving: Unpack[Saving]) -> str:
    """Save a Flux pipeline of 0.1 million parameters; 16 x 16 pixels are enough for it.

    Arguments and result are those of `tiny_stable_diffusion`.
    """
    return _saved(_flux, directory, **saving)


def _stable_diffusion() -> Any:
    diffusers = library("diffusers")
    return diffusers.StableDiffusionPipeline(
        unet=_unet(cross_attention_dim=32),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        vae=_vae(),
        text_encoder=_clip("CLIPTextModel"),
        tokenizer=clip_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl() -> Any:
    diffusers = library("diffusers")
    return diffusers.StableDiffusionXLPipeline(
        unet=_unet(
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=80,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        vae=_vae(),
        text_encoder=_clip("CLIPTextModel"),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_clip("CLIPTextModelWithProjection"),
        tokenizer_2=clip_tokenizer(),
        add_watermarker=False,
    )


def _stable_diffusion_3() -> Any:
    diffusers = library("diffusers")
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=32,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=64,
            pooled_projection_dim=64,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=diffusers.AutoencoderKL(
            sample_size=32,
            block_out_channels=(4,),
            latent_channels=4,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0609,
            scaling_factor=1.5035,
        ),
        text_encoder=_clip("CLIPTextModelWithProjection"),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_clip("CLIPTextModelWithProjection"),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=_t5(64),
        tokenizer_3=unigram_tokenizer(),
    )


def _flux() -> Any:
    diffusers = library("diffusers")
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=diffusers.AutoencoderKL(
            sample_size=32,
            block_out_channels=(4,),
            latent_channels=1,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0609,
            scaling_factor=1.5035,
        ),
        text_encoder=_clip("CLIPTextModel"),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_t5(32),
        tokenizer_2=unigram_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        ),
    )


def _unet(**options: Any) -> Any:
    diffusers = library("diffusers")

    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
        **options,
    )


def _vae() -> Any:
    diffusers = library("diffusers")

    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=2,
        sample_size=64,
    )


def _clip(name: str) -> Any:
    transformers = library("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=514,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return getattr(transformers, name)(config)


def _t5(width: int) -> Any:
    transformers = library("transformers")
    config = transformers.T5Config(
        vocab_size=128,
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return transformers.T5EncoderModel(config)


def _saved(
    make: Callable[[], Any],
    directory: str | os.PathLike[str],
    *,
    seed: int = 0,
    shard_bytes: int = 0,
    variant: str = "",
    dtype: str = "float32",
) -> str:
    torch = library("torch")
    torch.manual_seed(seed)
    pipeline = make()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(getattr(torch, dtype))
    options: dict[str, Any] = {"max_shard_size": shard_bytes} if shard_bytes else {}
    path = os.fspath(directory)
    pipeline.save_pretrained(path, variant=variant or None, **options)
    return path
