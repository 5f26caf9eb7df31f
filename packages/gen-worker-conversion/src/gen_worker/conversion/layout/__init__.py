"""The layouts of a model's files: one set of weights under the names that each loader knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.layout.denoisers import (
        DenoiserLayout,
        convert_denoiser,
        renamed_denoiser,
        reshard,
    )
    from gen_worker.conversion.layout.single_file import (
        DiffusersFolder,
        PackedPipeline,
        SingleFile,
        UnpackedPipeline,
        convert_diffusers_to_singlefile,
        diffusers_to_singlefile,
        packed_pipeline,
        singlefile_to_diffusers,
        unpacked_pipeline,
    )

__all__ = [
    "DenoiserLayout",
    "DiffusersFolder",
    "PackedPipeline",
    "SingleFile",
    "UnpackedPipeline",
    "convert_denoiser",
    "convert_diffusers_to_singlefile",
    "diffusers_to_singlefile",
    "packed_pipeline",
    "renamed_denoiser",
    "reshard",
    "singlefile_to_diffusers",
    "unpacked_pipeline",
]

_MODULES = {
    "denoisers": ("DenoiserLayout", "convert_denoiser", "renamed_denoiser", "reshard"),
    "single_file": (
        "DiffusersFolder",
        "PackedPipeline",
        "SingleFile",
        "UnpackedPipeline",
        "convert_diffusers_to_singlefile",
        "diffusers_to_singlefile",
        "packed_pipeline",
        "singlefile_to_diffusers",
        "unpacked_pipeline",
    ),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
