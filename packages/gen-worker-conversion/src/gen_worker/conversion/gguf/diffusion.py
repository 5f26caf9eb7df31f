"""Denoisers of diffusers as GGUF files, under their names, as `GGUFQuantizationConfig` loads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.json_files import read_json
from gen_worker.conversion.gguf.mixes import Fallback, fallback_of
from gen_worker.conversion.gguf.models import GgufPlan, general
from gen_worker.conversion.gguf.packing import packed
from gen_worker.conversion.gguf.types import file_type
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lazy.dtypes import FLOATS

if TYPE_CHECKING:
    from gen_worker.conversion.gguf.types import FileType
    from gen_worker.conversion.lazy import LazyTensor

__all__ = ["DIFFUSION_ARCHITECTURES", "plan_diffusion_model"]

DIFFUSION_ARCHITECTURES = {
    "FluxTransformer2DModel": "flux",
    "SD3Transformer2DModel": "sd3",
    "UNet2DConditionModel": "sd1",
}
"""Of `general.architecture`, by the class of diffusers; UNets of SDXL are `sdxl`."""
_SDXL_WIDTH = 2048
_MAX_NAME_BYTES = 127
"""What the readers of such files take; blocks of UNets have longer names than llama.cpp's."""
_FIRST_AND_LAST = (
    *("img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer."),
    *("x_embedder.", "context_embedder.", "time_text_embed.", "t_embedder.", "y_embedder."),
    *("pos_embed.", "norm_out.", "proj_out.", "time_embedding.", "add_embedding."),
    *("class_embedding.", "time_embed.", "label_emb.", "conv_in.", "conv_out."),
)
"""Layers that see inputs, times or results: a small part of a model, and of most of its errors."""


def plan_diffusion_model(
    source: str | os.PathLike[str], to: str, *, architecture: str = "", name: str = ""
) -> GgufPlan:
    """Plan the GGUF file of a transformer or a UNet.

    Weights of linear layers are packed; first and last layers, convolutions, norms and biases stay
    as they are, in float16 where the source has that and else in float32.

    Args:
        source: Directory of the component, or a file with its weights.
        to: Type of the file, such as `q4_0`; mixes are of language models, so all weights that are
            packed have the type's base.
        architecture: A value of `DIFFUSION_ARCHITECTURES`, or `sdxl`; by default what
            `config.json` says.
        name: Of the model, for the metadata.

    Raises:
        GgufSourceError: It is none of these models.
        ConversionInputError: There is no such type.
        DamagedFileError: A file with weights is damaged.
    """
    wanted = file_type(to)
    place = os.fspath(source)
    kind = architecture or _architecture(place)
    if kind not in {*DIFFUSION_ARCHITECTURES.values(), "sdxl"}:
        raise _unknown(place, kind)
    tensors: dict[str, LazyTensor] = {}
    types: dict[str, str] = {}
    fallbacks: list[Fallback] = []
    for key, tensor in open_checkpoint(place).items():
        types[key] = _type_of(key, tensor, wanted)
        if types[key] == wanted.base and not wanted.is_plain:
            types[key] = fallback_of(wanted.base, tensor.shape[-1])
            if types[key] != wanted.base:
                fallbacks.append(Fallback(key, wanted.base, types[key], tensor.shape[-1]))
        tensors[key] = packed(tensor, types[key]) if tensor.dtype in FLOATS else tensor
    metadata = general(kind, wanted, name)
    return GgufPlan(
        tensors,
        metadata,
        kind,
        wanted,
        types,
        tuple(fallbacks),
        (),
        max_name_bytes=_MAX_NAME_BYTES,
    )


def _type_of(name: str, tensor: LazyTensor, wanted: FileType) -> str:
    if tensor.dtype not in FLOATS:
        return tensor.dtype
    is_linear = len(tensor.shape) == 2 and name.endswith(".weight")
    plain = name.removeprefix("model.diffusion_model.")
    if is_linear and not plain.startswith(_FIRST_AND_LAST):
        return wanted.base
    return "F16" if tensor.dtype == "F16" and wanted.base != "F32" else "F32"


def _architecture(place: str) -> str:
    file = os.path.join(place, "config.json")
    if not os.path.isfile(file):
        raise GgufSourceError(
            f"{place!r} has no 'config.json': give the directory of a transformer or a UNet, or "
            "name its architecture",
            code="gguf_missing_config_json",
            file=place,
        )
    config = read_json(file, "gguf_invalid_config_json")
    found = DIFFUSION_ARCHITECTURES.get(str(config.get("_class_name")), "")
    if not found:
        raise _unknown(file, str(config.get("_class_name")))
    is_wide = config.get("cross_attention_dim") == _SDXL_WIDTH or config.get("addition_embed_type")
    return "sdxl" if found == "sd1" and is_wide else found


def _unknown(file: str, kind: str) -> GgufSourceError:
    known = ", ".join(DIFFUSION_ARCHITECTURES)
    return GgufSourceError(
        f"{file!r} is of {kind!r}, GGUF files are made of {known}: choose another format for it",
        code="unsupported_gguf_architecture_from_config",
        file=file,
    )
