"""Real models, made on the spot, small enough for tests: no download, seconds on a CPU.

Their classes and file layouts are those of the models people use; their weights are random, so an
image is noise and a text is nonsense, but the same under the same seed. They need diffusers,
transformers and peft or gguf where the name says so (`gen-worker[torch]`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.tiny.adapters import tiny_lora
    from gen_worker.models.tiny.diffusion import (
        tiny_flux,
        tiny_stable_diffusion,
        tiny_stable_diffusion_3,
        tiny_stable_diffusion_xl,
    )
    from gen_worker.models.tiny.gguf_files import tiny_flux_gguf, tiny_llama_gguf
    from gen_worker.models.tiny.language import tiny_llama
    from gen_worker.models.tiny.single_file import to_single_file

__all__ = [
    "tiny_flux",
    "tiny_flux_gguf",
    "tiny_llama",
    "tiny_llama_gguf",
    "tiny_lora",
    "tiny_stable_diffusion",
    "tiny_stable_diffusion_3",
    "tiny_stable_diffusion_xl",
    "to_single_file",
]

_MODULES = {
    "adapters": ("tiny_lora",),
    "diffusion": (
        "tiny_flux",
        "tiny_stable_diffusion",
        "tiny_stable_diffusion_3",
        "tiny_stable_diffusion_xl",
    ),
    "gguf_files": ("tiny_flux_gguf", "tiny_llama_gguf"),
    "language": ("tiny_llama",),
    "single_file": ("to_single_file",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
