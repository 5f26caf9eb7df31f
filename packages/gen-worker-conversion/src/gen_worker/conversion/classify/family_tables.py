"""What others call a model family, and what it is called here."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "CIVITAI",
    "FAMILIES",
    "KOHYA",
    "KOHYA_PARTS",
    "REPOSITORIES",
    "TAGS",
]

_IMAGES = """
    sd14 sd15 sd2 sd3-medium sd35-medium sd35-large sd35-large-turbo sdxl sdxl-turbo sdxl-pony
    sdxl-illustrious sdxl-distilled sdxl-lightning sdxl-hyper flux1-dev flux1-schnell flux1-kontext
    flux1-krea flux2-dev flux.2-klein-4b flux.2-klein-9b flux2-pro stable-cascade playground-v2
    pixart-alpha pixart-sigma lumina kolors hunyuan-1 auraflow qwen-image z-image
"""
_VIDEOS = "svd svd-xt wan21 wan22 ltx-video"
_LANGUAGE = """
    llama-3-1b llama-3-3b llama-3-8b llama-3-70b llama-3-2-1b llama-3-2-3b llama-3-2-11b
    llama-3-2-90b qwen-2-7b qwen-2-72b qwen-2-5-0-5b qwen-2-5-7b qwen-2-5-32b qwen-2-5-72b qwen-3-vl
    gemma-2-2b gemma-2-9b gemma-2-27b gemma-3-4b gemma-3-12b mistral-7b mistral-medium mixtral-8x7b
    mixtral-8x22b phi-3-mini phi-3-medium phi-3-5-mini deepseek-v2 deepseek-v3 deepseek-v4
"""
_ENCODERS = """
    bge-base-en bge-large-en all-minilm-l6-v2 all-mpnet-base-v2 clip-vit-l-14 clip-vit-bigg-14
    siglip-base siglip-large
"""
FAMILIES = frozenset(f"{_IMAGES} {_VIDEOS} {_LANGUAGE} {_ENCODERS} other unknown".split())
"""All there are; the hub knows the same."""


def _inverted(names: Mapping[str, Iterable[str]]) -> Mapping[str, str]:
    """Return the family of each name, which is in lower case then."""
    return MappingProxyType(
        {name.lower(): family for family, every in names.items() for name in every}
    )


REPOSITORIES = _inverted(
    {
        "sd15": ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        "sd14": ("stabilityai/stable-diffusion-v1-4", "CompVis/stable-diffusion-v1-4"),
        "sd2": ("stabilityai/stable-diffusion-2-1",),
        "sdxl": (
            "stabilityai/stable-diffusion-xl-base-1.0",
            "stabilityai/stable-diffusion-xl-base-0.9",
            "stabilityai/stable-diffusion-xl-refiner-1.0",
        ),
        "sdxl-turbo": ("stabilityai/sdxl-turbo",),
        "sdxl-lightning": ("ByteDance/SDXL-Lightning",),
        "sdxl-hyper": ("ByteDance/Hyper-SD",),
        "stable-cascade": ("stabilityai/stable-cascade",),
        "sd3-medium": (
            "stabilityai/stable-diffusion-3-medium",
            "stabilityai/stable-diffusion-3-medium-diffusers",
        ),
        "sd35-medium": ("stabilityai/stable-diffusion-3.5-medium",),
        "sd35-large": ("stabilityai/stable-diffusion-3.5-large",),
        "sd35-large-turbo": ("stabilityai/stable-diffusion-3.5-large-turbo",),
        "flux1-dev": ("black-forest-labs/FLUX.1-dev",),
        "flux1-schnell": ("black-forest-labs/FLUX.1-schnell",),
        "flux1-kontext": ("black-forest-labs/FLUX.1-Kontext-dev",),
        "flux1-krea": ("black-forest-labs/FLUX.1-Krea-dev",),
        "flux2-dev": ("black-forest-labs/FLUX.2-dev",),
        "flux.2-klein-4b": ("black-forest-labs/FLUX.2-klein-4B",),
        "flux.2-klein-9b": ("black-forest-labs/FLUX.2-klein-9B",),
        "svd": ("stabilityai/stable-video-diffusion-img2vid",),
        "svd-xt": ("stabilityai/stable-video-diffusion-img2vid-xt",),
        "wan21": ("Wan-AI/Wan2.1-T2V-A14B",),
        "wan22": ("Wan-AI/Wan2.2-T2V-A14B",),
        "ltx-video": ("Lightricks/LTX-Video",),
        "llama-3-8b": ("meta-llama/Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        "llama-3-70b": ("meta-llama/Llama-3-70B", "meta-llama/Meta-Llama-3-70B"),
        "llama-3-2-1b": ("meta-llama/Llama-3.2-1B",),
        "llama-3-2-3b": ("meta-llama/Llama-3.2-3B",),
        "qwen-2-5-7b": ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
        "qwen-2-5-72b": ("Qwen/Qwen2.5-72B",),
        "qwen-2-5-0-5b": ("Qwen/Qwen2.5-0.5B-Instruct",),
        "gemma-2-2b": ("google/gemma-2-2b",),
        "gemma-2-9b": ("google/gemma-2-9b",),
        "gemma-3-4b": ("google/gemma-3-4b-it",),
        "mistral-7b": ("mistralai/Mistral-7B-v0.3",),
        "bge-large-en": ("BAAI/bge-large-en-v1.5",),
        "all-minilm-l6-v2": ("sentence-transformers/all-MiniLM-L6-v2",),
        "all-mpnet-base-v2": ("sentence-transformers/all-mpnet-base-v2",),
        "clip-vit-l-14": ("openai/clip-vit-large-patch14",),
    }
)

KOHYA = _inverted(
    {
        "sd15": (
            "sd_v1",
            "sd_v1.5",
            "stable-diffusion-v1",
            "stable-diffusion-v1-5",
            "stable-diffusion-1-5",
        ),
        "sd2": ("sd_v2", "sd_v2.0", "sd_v2.1", "stable-diffusion-v2-1"),
        "sdxl": (
            "sdxl_base_v1",
            "sdxl_base_v0_9",
            "stable-diffusion-xl-1.0",
            "stable-diffusion-xl-base-1.0",
        ),
        "sdxl-pony": ("pony", "pony-diffusion-xl-v6"),
        "sdxl-illustrious": ("illustrious",),
        "flux1-dev": ("flux1", "flux.1", "flux1-dev"),
        "flux1-schnell": ("flux1-schnell",),
        "flux.2-klein-4b": ("flux2", "flux2-klein", "flux2-klein-4b", "flux.2-klein-4b"),
        "flux.2-klein-9b": ("flux2-klein-9b", "flux.2-klein-9b"),
        "sd3-medium": ("sd3",),
        "sd35-medium": ("sd3.5",),
        "sd35-large": ("sd3.5-large",),
        "wan21": ("wan21",),
        "wan22": ("wan22",),
        "ltx-video": ("ltx-video",),
    }
)
"""Values of `ss_base_model_version` in the metadata of kohya's trainers, blanks as `_`."""

KOHYA_PARTS = (
    ("sdxl", "sdxl"),
    ("flux1", "flux1-dev"),
    ("flux.1", "flux1-dev"),
    ("flux2", "flux.2-klein-4b"),
    ("flux.2", "flux.2-klein-4b"),
    *((part, "sd15") for part in ("sd_v1", "sd-v1", "sd1")),
    *((part, "sd2") for part in ("sd_v2", "sd-v2", "sd2")),
)
"""Parts of such values, and what they mean where the whole is not known; the first one counts."""

TAGS = _inverted(
    {
        "sd15": ("stable-diffusion", "stable-diffusion-v1-5", "stable-diffusion-1-5"),
        "sd2": ("stable-diffusion-2",),
        "sdxl": ("stable-diffusion-xl", "stable-diffusion-xl-base", "sdxl"),
        "sdxl-pony": ("pony",),
        "sdxl-illustrious": ("illustrious",),
        "flux1-dev": ("flux", "flux-1", "flux-dev"),
        "flux1-schnell": ("flux-schnell",),
        "flux.2-klein-4b": ("flux-2",),
        "wan21": ("wan2-1",),
        "wan22": ("wan2-2",),
        "ltx-video": ("ltx-video",),
    }
)
"""Tags of model cards."""

CIVITAI: Mapping[str, str] = MappingProxyType(
    {
        "SD 1.4": "sd14",
        "SD 1.5": "sd15",
        "SD 2.0": "sd2",
        "SD 2.1": "sd2",
        "SDXL 0.9": "sdxl",
        "SDXL 1.0": "sdxl",
        "SDXL Distilled": "sdxl-distilled",
        "SDXL Turbo": "sdxl-turbo",
        "SDXL Lightning": "sdxl-lightning",
        "SDXL Hyper": "sdxl-hyper",
        "Pony": "sdxl-pony",
        "Illustrious": "sdxl-illustrious",
        "Stable Cascade": "stable-cascade",
        "SVD": "svd",
        "SVD XT": "svd-xt",
        "Playground v2": "playground-v2",
        "PixArt a": "pixart-alpha",
        "PixArt α": "pixart-alpha",  # noqa: RUF001 - as the site writes it
        "PixArt Σ": "pixart-sigma",
        "PixArt sigma": "pixart-sigma",
        "Hunyuan 1": "hunyuan-1",
        "Lumina": "lumina",
        "Kolors": "kolors",
        "AuraFlow": "auraflow",
        "Flux.1 D": "flux1-dev",
        "Flux.1 S": "flux1-schnell",
        "Flux.2": "flux.2-klein-4b",
        "SD 3": "sd3-medium",
        "SD 3.5": "sd35-medium",
        "SD 3.5 Medium": "sd35-medium",
        "SD 3.5 Large": "sd35-large",
        "SD 3.5 Large Turbo": "sd35-large-turbo",
        "Other": "other",
    }
)
"""Values of `baseModel` in the API of civitai."""
