"""Makes images from prompts with a Stable Diffusion pipeline."""

from typing import Annotated, Literal

import gen_worker as gw
import msgspec
import torch  # type: ignore[import-not-found,unused-ignore]
from diffusers import (  # type: ignore[import-not-found,unused-ignore]
    StableDiffusionPipeline,
)
from gen_worker import Asset, Clamp, Repo, RequestContext, inference_function

PAINTER = Repo("painter", "demo/tiny-sd").allow_override("StableDiffusionPipeline")
"""A caller may name another model of this class; the ref is what it is without one."""


class Prompt(msgspec.Struct):
    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    steps: Annotated[int, Clamp(1, 100)] = 20
    guidance: Annotated[float, Clamp(0, 20)] = 7.5
    width: Annotated[int, Clamp(64, 1024)] = 512
    """In pixels; rounded down to a multiple of 8, as the height is."""
    height: Annotated[int, Clamp(64, 1024)] = 512
    format: Literal["png", "webp"] = "png"


class Picture(msgspec.Struct):
    image: Asset
    width: int
    height: int


@inference_function(models={"pipe": PAINTER})
def generate(ctx: RequestContext, pipe: StableDiffusionPipeline, payload: Prompt) -> Picture:
    """Paint a prompt; the same seed paints the same image."""
    result = pipe(
        payload.prompt,
        negative_prompt=payload.negative_prompt,
        num_inference_steps=payload.steps,
        guidance_scale=payload.guidance,
        width=payload.width - payload.width % 8,
        height=payload.height - payload.height % 8,
        # Noise from the CPU is the same wherever the pipeline computes.
        generator=torch.Generator("cpu").manual_seed(payload.seed),
    )
    image = result.images[0]
    asset = gw.io.write_image(ctx, f"image.{payload.format}", image, format=payload.format)
    return Picture(image=asset, width=image.width, height=image.height)
