"""What is particular to each kind of pipeline: its parts, its captions, and how it is called.

B images, C channels, H and W latent height and width, S tokens of text, D their width, P patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import ValidationError
from gen_worker.models.loading.libraries import library

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["FAMILIES", "Asked", "Family", "family_of"]

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_JOINT_ATTENTION = (*_ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class Asked(NamedTuple):
    """What a denoiser is asked about, for images of one size."""

    noisy_BCHW: Any
    timesteps_B: Any
    """From 0 to the count of the scheduler's."""
    text: Mapping[str, Any]
    """What `Family.read` returned, stacked."""
    sizes_B6: Any
    """Original size, place of the crop and size: height before width, top before left."""
    guidance: float
    config: Any
    """Of the denoiser."""


class Family(NamedTuple):
    """A kind of pipeline."""

    pipelines: tuple[str, ...]
    """Classes of diffusers."""
    denoiser: str
    """The component that is trained."""
    clip_encoders: tuple[str, ...]
    """Components that are trained with it, if that is wanted."""
    is_flow: bool
    """Whether it learns flows, and not to tell noise."""
    targets: tuple[str, ...]
    """Layers that get LoRAs."""
    read: Callable[[Any, str, Any, int], dict[str, Any]]
    """Encodes a caption with a pipeline, on a device, in so many tokens."""
    predict: Callable[[Any, Asked], Any]
    """Has the denoiser say what it thinks of noisy latents; the answer is like them."""
    patch: Callable[[Any], int]
    """Latent pixels to which the sides of an image have to come out even, of the denoiser."""


def _read_sd(pipeline: Any, caption: str, device: Any, tokens: int) -> dict[str, Any]:
    text_BSD, _ = pipeline.encode_prompt(caption, device, 1, do_classifier_free_guidance=False)
    return {"text": text_BSD[0]}


def _predict_sd(denoiser: Any, asked: Asked) -> Any:
    return denoiser(
        asked.noisy_BCHW, asked.timesteps_B, asked.text["text"], return_dict=False
    )[0]  # fmt: skip


def _read_sdxl(pipeline: Any, caption: str, device: Any, tokens: int) -> dict[str, Any]:
    text_BSD, _, pooled_BD, _ = pipeline.encode_prompt(
        caption, device=device, do_classifier_free_guidance=False
    )
    return {"text": text_BSD[0], "pooled": pooled_BD[0]}


def _predict_sdxl(denoiser: Any, asked: Asked) -> Any:
    added = {"text_embeds": asked.text["pooled"], "time_ids": asked.sizes_B6}
    return denoiser(
        asked.noisy_BCHW,
        asked.timesteps_B,
        asked.text["text"],
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def _read_sd3(pipeline: Any, caption: str, device: Any, tokens: int) -> dict[str, Any]:
    text_BSD, _, pooled_BD, _ = pipeline.encode_prompt(
        caption,
        None,
        None,
        device=device,
        do_classifier_free_guidance=False,
        max_sequence_length=tokens,
    )
    return {"text": text_BSD[0], "pooled": pooled_BD[0]}


def _predict_sd3(denoiser: Any, asked: Asked) -> Any:
    return denoiser(
        hidden_states=asked.noisy_BCHW,
        timestep=asked.timesteps_B,
        encoder_hidden_states=asked.text["text"],
        pooled_projections=asked.text["pooled"],
        return_dict=False,
    )[0]


def _read_flux(pipeline: Any, caption: str, device: Any, tokens: int) -> dict[str, Any]:
    text_BSD, pooled_BD, _ = pipeline.encode_prompt(
        caption, device=device, max_sequence_length=tokens
    )
    return {"text": text_BSD[0], "pooled": pooled_BD[0]}


def _predict_flux(denoiser: Any, asked: Asked) -> Any:
    torch = library("torch")
    noisy_BCHW, text_BSD = asked.noisy_BCHW, asked.text["text"]
    batch, channels, height, width = noisy_BCHW.shape
    rows, columns = height // 2, width // 2
    patches = noisy_BCHW.view(batch, channels, rows, 2, columns, 2)
    patches_BPC = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * 4)
    places = torch.zeros(rows, columns, 3, device=noisy_BCHW.device)
    places[..., 1] = torch.arange(rows)[:, None]
    places[..., 2] = torch.arange(columns)[None, :]
    is_guided = asked.config.guidance_embeds
    answer_BPC = denoiser(
        hidden_states=patches_BPC,
        timestep=asked.timesteps_B / 1000,  # it is multiplied by this within
        guidance=noisy_BCHW.new_full((batch,), asked.guidance) if is_guided else None,
        pooled_projections=asked.text["pooled"],
        encoder_hidden_states=text_BSD,
        txt_ids=torch.zeros(text_BSD.shape[1], 3, device=noisy_BCHW.device),
        img_ids=places.view(rows * columns, 3),
        return_dict=False,
    )[0]
    answer = answer_BPC.view(batch, rows, columns, channels, 2, 2)
    return answer.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


FAMILIES = (
    Family(
        pipelines=("StableDiffusionPipeline",),
        denoiser="unet",
        clip_encoders=("text_encoder",),
        is_flow=False,
        targets=_ATTENTION,
        read=_read_sd,
        predict=_predict_sd,
        patch=lambda config: 1,
    ),
    Family(
        pipelines=("StableDiffusionXLPipeline",),
        denoiser="unet",
        clip_encoders=("text_encoder", "text_encoder_2"),
        is_flow=False,
        targets=_ATTENTION,
        read=_read_sdxl,
        predict=_predict_sdxl,
        patch=lambda config: 1,
    ),
    Family(
        pipelines=("StableDiffusion3Pipeline",),
        denoiser="transformer",
        clip_encoders=("text_encoder", "text_encoder_2"),
        is_flow=True,
        targets=_JOINT_ATTENTION,
        read=_read_sd3,
        predict=_predict_sd3,
        patch=lambda config: int(config.patch_size),
    ),
    Family(
        pipelines=("FluxPipeline",),
        denoiser="transformer",
        clip_encoders=("text_encoder",),
        is_flow=True,
        targets=_JOINT_ATTENTION,
        read=_read_flux,
        predict=_predict_flux,
        patch=lambda config: 2,
    ),
)


def family_of(pipeline: Any) -> Family:
    """Return the kind of a pipeline.

    Raises:
        ValidationError: It is of no kind that can be trained.
    """
    diffusers = library("diffusers")
    for family in FAMILIES:
        if isinstance(pipeline, tuple(getattr(diffusers, name) for name in family.pipelines)):
            return family
    known = ", ".join(name for family in FAMILIES for name in family.pipelines)
    raise ValidationError(
        f"the base model is a {type(pipeline).__name__}, and what can be trained is {known}",
        path="$.inputs.base_model_ref",
    )
