"""Which families have a layout of one file, what is where in it, and how a family is told."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gen_worker.conversion.errors import ConversionInputError, NotImplementedFamilyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.models.formats import TensorInfo

__all__ = ["LAYOUTS", "Layout", "Part", "PartKind", "layout_of_file", "layout_of_pipeline"]

PartKind = Literal["unet", "sd3", "flux", "vae", "clip", "open_clip", "t5"]


class Part(NamedTuple):
    """A component of a pipeline inside of a single file."""

    component: str
    """Its folder in a pipeline of diffusers."""
    kind: PartKind
    prefixes: tuple[str, ...]
    """What the names of its tensors begin with: the first when written, any of them when read."""
    has_projection: bool = False
    """Of a text encoder: whether its class is `CLIPTextModelWithProjection`."""


class Layout(NamedTuple):
    """Of a single file, by family."""

    name: str
    denoiser: Part
    parts: tuple[Part, ...]
    """The others."""

    @property
    def every(self) -> tuple[Part, ...]:
        return self.denoiser, *self.parts


_DENOISER = ("model.diffusion_model.",)
_UNET = Part("unet", "unet", _DENOISER)
# A1111 and the original code say `first_stage_model`, ComfyUI also `vae`.
_VAE = Part("vae", "vae", ("first_stage_model.", "vae."))
_CLIP_L = ("text_encoders.clip_l.transformer.",)
_CLIP_G = ("text_encoders.clip_g.transformer.",)
_T5 = ("text_encoders.t5xxl.transformer.",)

_EVERY = (
    Layout("sd15", _UNET, (_VAE, Part("text_encoder", "clip", ("cond_stage_model.transformer.",)))),
    Layout("sd2", _UNET, (_VAE, Part("text_encoder", "open_clip", ("cond_stage_model.model.",)))),
    Layout(
        "sdxl",
        _UNET,
        (
            _VAE,
            Part("text_encoder", "clip", ("conditioner.embedders.0.transformer.",)),
            Part("text_encoder_2", "open_clip", ("conditioner.embedders.1.model.",), True),
        ),
    ),
    Layout(
        "sdxl-refiner",
        _UNET,
        (_VAE, Part("text_encoder_2", "open_clip", ("conditioner.embedders.0.model.",), True)),
    ),
    Layout(
        "sd3",
        Part("transformer", "sd3", _DENOISER),
        (
            _VAE,
            Part("text_encoder", "clip", _CLIP_L, True),
            Part("text_encoder_2", "clip", _CLIP_G, True),
            Part("text_encoder_3", "t5", _T5),
        ),
    ),
    Layout(
        "flux1",
        Part("transformer", "flux", _DENOISER),
        (
            Part("vae", "vae", ("vae.", "first_stage_model.")),
            Part("text_encoder", "clip", _CLIP_L),
            Part("text_encoder_2", "t5", _T5),
        ),
    ),
)
LAYOUTS: Mapping[str, Layout] = MappingProxyType({layout.name: layout for layout in _EVERY})
"""By name of the family."""

_PIPELINES = {
    "StableDiffusion": ("sd15", "sd2"),
    "StableDiffusionXL": ("sdxl", "sdxl-refiner"),
    "StableDiffusion3": ("sd3",),
    "Flux": ("flux1",),
    "FluxKontext": ("flux1",),
    "FluxFill": ("flux1",),
    "FluxControl": ("flux1",),
}
_TASKS = ("", "Img2Img", "Inpaint")
_IN_FILES = {
    "sd1": "sd15",
    "sd2": "sd2",
    "sdxl": "sdxl",
    "sdxl-refiner": "sdxl-refiner",
    "sd3": "sd3",
    "flux-dev": "flux1",
    "flux-schnell": "flux1",
}
_ASKED = {
    "sd14": ("sd15",),
    "sd15_sd2": ("sd15", "sd2"),
    "sd15": ("sd15",),
    "sd2": ("sd2",),
    "sd3": ("sd3",),
    "flux": ("flux1",),
}
_ASKED_STARTS = {"sdxl": ("sdxl", "sdxl-refiner"), "sd3": ("sd3",), "sd35": ("sd3",)} | {
    "flux1": ("flux1",)
}


def layout_of_pipeline(
    index: Mapping[str, Any], text_config: Mapping[str, Any], family: str, step: str
) -> Layout:
    """Return the layout of a pipeline, by the class that its `model_index.json` names.

    Args:
        index: That file.
        text_config: Configuration of `text_encoder`; Stable Diffusion 1 and 2 differ there.
        family: What the caller says it is; empty for nothing.
        step: Name of the conversion, for errors.

    Raises:
        NotImplementedFamilyError: There is no layout of one file for it.
        ConversionInputError: It is of another family than the caller says.
    """
    name = str(index.get("_class_name", ""))
    found = _by_class(name)
    if not found:
        raise NotImplementedFamilyError(family or name or "unknown", step)
    if found == ("sd15", "sd2"):
        # The text encoder of Stable Diffusion 2 is an OpenCLIP, which knows no other activation.
        layout = "sd2" if text_config.get("hidden_act") == "gelu" else "sd15"
    else:
        is_refiner = len(found) > 1 and not (index.get("text_encoder") or [None])[0]
        layout = found[-1] if is_refiner else found[0]
    return _checked(layout, family, step)


def layout_of_file(tensors: Mapping[str, TensorInfo], family: str, step: str) -> Layout:
    """Return the layout of a single file, by the names of its tensors.

    Raises:
        NotImplementedFamilyError: It is of none of the families.
        ConversionInputError: It is of another family than the caller says.
    """
    from gen_worker.models.loading.families import family_of

    found = family_of(tensors)
    if found is None:
        raise NotImplementedFamilyError(family or "unknown", step)
    return _checked(_IN_FILES[found.name], family, step)


def _by_class(name: str) -> tuple[str, ...]:
    if not name.endswith("Pipeline"):
        return ()
    stem = name.removesuffix("Pipeline")
    stems = (stem.removesuffix(task) for task in _TASKS if stem.endswith(task))
    return next((_PIPELINES[one] for one in stems if one in _PIPELINES), ())


def _checked(name: str, family: str, step: str) -> Layout:
    wanted = _asked(family, step) if family else (name,)
    if name not in wanted:
        raise ConversionInputError(
            f"the model is of the family {name!r}, not {family!r}: leave the family out, or name "
            "the right one",
            step=step,
        )
    return LAYOUTS[name]


def _asked(family: str, step: str) -> tuple[str, ...]:
    start = family.partition("-")[0]
    found = _ASKED.get(family) or _ASKED_STARTS.get(start)
    if found is None:
        raise NotImplementedFamilyError(family, step)
    return found
