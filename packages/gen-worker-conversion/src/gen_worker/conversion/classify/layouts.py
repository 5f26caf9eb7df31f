"""The layout of a model's files, and its family in the coarser words of layouts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple

from gen_worker.conversion.classify.adapters import are_adapter_names
from gen_worker.conversion.classify.families import repo_to_family
from gen_worker.models.formats import read_header
from gen_worker.models.formats.configs import read_config
from gen_worker.models.loading.families import family_of
from gen_worker.models.sources.facts import INDEX, class_named_in

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "SourceLayoutInfo",
    "coarse_family",
    "detect_huggingface_source_layout",
    "variant_of_family",
]

SourceLayout = Literal[
    "diffusers",
    "transformers",
    "singlefile",
    "gguf",
    "peft",
    "native_lora",
    "sentence_transformers",
    "unknown",
]

_CLASSES = (
    ("AuraFlow", "auraflow"),
    ("Wan", "wan21"),
    ("QwenImage", "qwen_image"),
    ("ZImage", "z_image"),
    ("Flex2", "flex2"),
    ("Flux2", "flux2"),
    ("Flux", "flux1"),
    ("StableDiffusionXL", "sdxl"),
    ("StableDiffusion3", ""),
    ("StableDiffusion", "sd15"),
)
"""Beginnings of the names of pipelines, the longer ones first; nothing for what has no variant."""
_FAMILIES = {
    "flux1": "flux",
    "flux2": "flux",
    "flex2": "flux",
    "wan21": "wan",
    "wan22": "wan",
    "auraflow": "auraflow",
    "sdxl": "sdxl",
    "sd15": "sd15_sd2",
}
_FOLDERS = frozenset(
    "unet transformer vae text_encoder text_encoder_2 text_encoder_3 image_encoder prior".split()
)
"""Of components with weights: a pipeline whose index is missing has them."""
_OF_HEADERS = {"sd1": "sd15", "sd2": "sd15", "sdxl": "sdxl", "sdxl-refiner": "sdxl"} | {
    name: "flux1" for name in ("flux-dev", "flux-schnell")
}
_OF_FINE = (
    *(("sdxl", "sdxl"), ("sd1", "sd15"), ("sd2", "sd15"), ("flux1", "flux1")),
    *(("flux2", "flux2"), ("flux.2", "flux2"), ("wan21", "wan21"), ("wan22", "wan22")),
    *(("auraflow", "auraflow"), ("qwen-image", "qwen_image"), ("z-image", "z_image")),
)


class SourceLayoutInfo(NamedTuple):
    """What the files of a model look like."""

    source_layout: SourceLayout
    model_family: str
    """`flux wan auraflow sdxl sd15_sd2` or `unknown`."""
    model_family_variant: str
    """`flux1 flux2 flex2 z_image qwen_image wan21 wan22 auraflow sdxl sd15` or `unknown`."""
    detection_reason: str
    """What told the variant."""


def coarse_family(variant: str) -> str:
    """Return the family of a variant; `unknown` where layouts know none."""
    return _FAMILIES.get(variant, "unknown")


def variant_of_family(family: str) -> str:
    """Return the variant that a family such as `sdxl-turbo` is of; empty where there is none."""
    return next((variant for start, variant in _OF_FINE if family.startswith(start)), "")


def detect_huggingface_source_layout(
    *, repo_dir: str | os.PathLike[str], files: Iterable[str]
) -> SourceLayoutInfo:
    """Look at files that are here: the class that a pipeline names, else tensors' names.

    Nothing is told from the names of folders, which newer pipelines share.

    Args:
        repo_dir: Where they are.
        files: Paths below it.

    Raises:
        DamagedFileError: A single file is no sound safetensors file.
    """
    root, paths = os.fspath(repo_dir), sorted(files)
    layout = _layout(paths)
    variant, reason = "", "nothing names a family that is known"
    if layout == "diffusers":
        variant, reason = _by_index(root)
    elif layout == "singlefile":
        tensors = read_header(os.path.join(root, *_single(paths).split("/"))).tensors
        layout = "native_lora" if tensors and are_adapter_names(tensors.keys()) else layout
        family = family_of(tensors)
        if family is not None and family.name in _OF_HEADERS:
            variant, reason = _OF_HEADERS[family.name], f"tensors of {family.name}"
    variant = variant or "unknown"
    return SourceLayoutInfo(layout, coarse_family(variant), variant, reason)


def _layout(paths: list[str]) -> SourceLayout:
    here = set(paths)
    if INDEX in here:
        return "diffusers"
    if here & {"modules.json", "config_sentence_transformers.json"}:
        return "sentence_transformers"
    if "adapter_config.json" in here:
        return "peft"
    if "config.json" in here and any(path.endswith(".safetensors") for path in paths):
        return "transformers"
    if any(path.endswith(".gguf") for path in paths):
        return "gguf"
    if any(path.partition("/")[0] in _FOLDERS for path in paths if path.endswith(".safetensors")):
        return "diffusers"
    return "singlefile" if _single(paths) else "unknown"


def _single(paths: list[str]) -> str:
    found = [path for path in paths if path.endswith(".safetensors")]
    return found[0] if len(found) == 1 else ""


def _by_index(root: str) -> tuple[str, str]:
    place = os.path.join(root, INDEX)
    if not os.path.isfile(place):
        return "", f"there is no {INDEX!r}"
    index = read_config(place)
    name = class_named_in(index)
    for start, variant in _CLASSES:
        if name.startswith(start):
            if variant == "wan21" and isinstance(index.get("transformer_2"), list):
                variant = "wan22"
            return variant, f"class {name!r} of {INDEX!r}"
    told = index.get("_name_or_path") if isinstance(index, dict) else None
    variant = variant_of_family((repo_to_family(told) if isinstance(told, str) else None) or "")
    if variant:
        return variant, f"name {told!r} in {INDEX!r}"
    return "", f"class {name!r} of {INDEX!r} is not known"
