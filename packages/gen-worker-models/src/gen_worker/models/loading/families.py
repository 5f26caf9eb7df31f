"""Which model a checkpoint in one file is, told by the names of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.models.formats import TensorInfo

__all__ = ["Family", "family_of"]


class Family(NamedTuple):
    """A family of checkpoints."""

    name: str
    pipeline: str
    """Class of diffusers; empty when the checkpoint is one component only."""
    component: str
    """Class of its denoiser."""
    config_repo: str
    """Hugging Face repository whose configuration fits."""


_LDM = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
_LDM_XL = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_FLUX = (
    "double_blocks.0.img_attn.qkv.weight",
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
)

_UNET = "UNet2DConditionModel"
_SD1 = Family(
    "sd1", "StableDiffusionPipeline", _UNET, "stable-diffusion-v1-5/stable-diffusion-v1-5"
)
_SD2 = Family("sd2", "StableDiffusionPipeline", _UNET, "stabilityai/stable-diffusion-2-1")
_SDXL = Family(
    "sdxl", "StableDiffusionXLPipeline", _UNET, "stabilityai/stable-diffusion-xl-base-1.0"
)
_REFINER = Family(
    "sdxl-refiner",
    "StableDiffusionXLImg2ImgPipeline",
    _UNET,
    "stabilityai/stable-diffusion-xl-refiner-1.0",
)
_SD3 = Family(
    "sd3",
    "StableDiffusion3Pipeline",
    "SD3Transformer2DModel",
    "stabilityai/stable-diffusion-3-medium-diffusers",
)
_FLUX_DEV = Family("flux-dev", "", "FluxTransformer2DModel", "black-forest-labs/FLUX.1-dev")
_FLUX_SCHNELL = Family(
    "flux-schnell", "", "FluxTransformer2DModel", "black-forest-labs/FLUX.1-schnell"
)


def family_of(tensors: Mapping[str, TensorInfo]) -> Family | None:
    """Return the family of a checkpoint; None when it is not one of those known.

    Checkpoints are: Stable Diffusion 1, 2, 3, XL and its refiner as one file, and the transformer
    of FLUX.1.
    """
    if any(name.startswith("conditioner.embedders.1.model.") for name in tensors):
        return _SDXL
    if any(name.startswith("conditioner.embedders.0.model.") for name in tensors):
        return _REFINER
    if any("joint_blocks.0.context_block" in name for name in tensors):
        return _SD3
    if any(name in tensors for name in _FLUX):
        has_guidance = any("guidance_in" in name for name in tensors)
        return _FLUX_DEV if has_guidance else _FLUX_SCHNELL
    if any(name.startswith("cond_stage_model.model.") for name in tensors):
        return _SD2
    if any(name.startswith("cond_stage_model.transformer.") for name in tensors):
        return _SD1
    return _by_width(tensors)


def _by_width(tensors: Mapping[str, TensorInfo]) -> Family | None:
    """Tell a bare denoiser by the width of the text it attends to."""
    cross = tensors.get(_LDM) or tensors.get(_LDM_XL)
    width = cross.shape[-1] if cross and cross.shape else 0
    family = {768: _SD1, 1024: _SD2, 2048: _SDXL, 1280: _REFINER}.get(width)
    return family._replace(pipeline="") if family else None
