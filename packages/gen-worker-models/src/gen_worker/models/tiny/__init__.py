"""Real models, made on the spot, small enough for tests: no download, seconds on a CPU.

Their classes and file layouts are those of the models people use; their weights are random, so an
image is noise and a text is nonsense, but the same under the same seed. They need diffusers,
transformers and peft or gguf where the name says so (`gen-worker[torch]`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen_worker.models.tiny.adapters import tiny_lora
    from gen_worker.models.tiny.diffusion import (
        tiny_flux,
        tiny_stable_diffusion,
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
    "tiny_stable_diffusion_xl",
    "to_single_file",
]

_MODULES = {
    "adapters": ("tiny_lora",),
    "diffusion": ("tiny_flux", "tiny_stable_diffusion", "tiny_stable_diffusion_xl"),
    "gguf_files": ("tiny_flux_gguf", "tiny_llama_gguf"),
    "language": ("tiny_llama",),
    "single_file": ("to_single_file",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{home}", fromlist=(name,))
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
