"""A denoiser alone, in the layouts that loaders of it know: diffusers, original, ComfyUI."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Literal

from gen_worker.conversion.cast import cast_checkpoint
from gen_worker.conversion.errors import ConversionInputError, NotImplementedFamilyError
from gen_worker.conversion.layout.configs import read_json
from gen_worker.conversion.layout.families import LAYOUTS, layout_of_file
from gen_worker.conversion.layout.moves import Moved, to_diffusers, to_original
from gen_worker.conversion.layout.repack import moves_of
from gen_worker.conversion.layout.shapes import flux_config, sd3_config, unet_config
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.side_files import write_json
from gen_worker.conversion.writer import MAX_SAFETENSORS_SHARD_BYTES, write_safetensors
from gen_worker.models.formats import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.layout.families import Layout
    from gen_worker.conversion.lazy import Checkpoint
    from gen_worker.conversion.writer import Written

__all__ = ["DenoiserLayout", "convert_denoiser", "renamed_denoiser", "reshard"]

DenoiserLayout = Literal["diffusers", "original", "comfyui"]
"""`comfyui` is the original with `model.diffusion_model.` before each name, as in a whole file."""
_PREFIX = "model.diffusion_model."
_CLASSES = {
    "UNet2DConditionModel": "sdxl",  # the moves of a UNet follow from its configuration alone
    "SD3Transformer2DModel": "sd3",
    "FluxTransformer2DModel": "flux1",
}
_STEP = "convert_denoiser"


def renamed_denoiser(
    checkpoint: Checkpoint, to: DenoiserLayout, *, config: Mapping[str, Any] | None = None
) -> tuple[Moved, dict[str, Any]]:
    """Return a denoiser in another layout, and its configuration for diffusers.

    Args:
        checkpoint: In any of the layouts.
        to: The layout.
        config: Content of its `config.json`; by default what the shapes of the original say.

    Raises:
        NotImplementedFamilyError: It is of no family that is known.
        ConversionInputError: It is in the layout of diffusers, and there is no configuration.
    """
    has_prefix = any(name.startswith(_PREFIX) for name in checkpoint)
    bare = {name.removeprefix(_PREFIX): one for name, one in checkpoint.items()}
    if has_prefix or _is_original(bare):
        layout = _layout_of_original(bare)
        known = dict(config) if config else _inferred(layout, bare)
        if to == "diffusers":
            return to_diffusers(bare, moves_of(layout.denoiser, known, "")), known
        return Moved(_with_prefix(bare, to), (), ()), known
    if not config:
        raise ConversionInputError(
            "a denoiser in the layout of diffusers needs its config.json: give the folder that "
            "has it",
            step=_STEP,
        )
    family = _CLASSES.get(str(config.get("_class_name")))
    if family is None:
        raise NotImplementedFamilyError(str(config.get("_class_name", "unknown")), _STEP)
    if to == "diffusers":
        return Moved(dict(checkpoint), (), ()), dict(config)
    moved = to_original(checkpoint, moves_of(LAYOUTS[family].denoiser, config, ""))
    return moved._replace(tensors=_with_prefix(moved.tensors, to)), dict(config)


def convert_denoiser(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: DenoiserLayout,
    config_dir: str | os.PathLike[str] = "",
    dtype: str = "",
    token: CancelToken | None = None,
) -> Moved:
    """Write a denoiser in another layout; blocks.

    Args:
        source: A file, or the folder of a component of diffusers.
        output: A folder for `diffusers`, else the file, `*.safetensors`.
        to: The layout.
        config_dir: The folder of its `config.json`; by default that of the source.
        dtype: `bf16`, `fp16`, `fp32`; empty leaves each tensor as it is.
        token: Ends the work between two slabs.

    Raises:
        NotImplementedFamilyError: It is of no family that is known.
        ConversionInputError: Tensors are missing or have no place, or there is no configuration.
    """
    place = os.fspath(source)
    folder = os.fspath(config_dir) or (place if os.path.isdir(place) else os.path.dirname(place))
    path = os.path.join(folder, "config.json")
    config = read_json(path) if os.path.isfile(path) else None
    moved, known = renamed_denoiser(open_checkpoint(place), to, config=config)
    if moved.extra or moved.missing:
        raise ConversionInputError(
            f"{place!r} does not fit its family: {list(moved.extra)[:8]} have no place, "
            f"{list(moved.missing)[:8]} are missing",
            file=place,
            step=_STEP,
        )
    tensors = cast_checkpoint(moved.tensors, dtype) if dtype else moved.tensors
    target = os.fspath(output)
    if to == "diffusers":
        write_safetensors(tensors, target, prefix="diffusion_pytorch_model", token=token)
        write_json(os.path.join(target, "config.json"), known)
    else:
        directory, name = os.path.split(os.path.abspath(target))
        stem = name.removesuffix(".safetensors")
        write_safetensors(tensors, directory, prefix=stem, max_shard_bytes=sys.maxsize, token=token)
    return moved


def reshard(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    max_shard_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
    prefix: str = "model",
    token: CancelToken | None = None,
) -> Written:
    """Write the same tensors in files of another size, with an index where there are several.

    Args:
        source: A file, an index, or the folder of one component.
        directory: For the files.
        max_shard_bytes: Of tensors in one file; `sys.maxsize` for a single one.
        prefix: Of their names; `diffusion_pytorch_model` for a component of diffusers.
        token: Ends the work between two slabs.
    """
    checkpoint = open_checkpoint(source)
    return write_safetensors(
        checkpoint,
        directory,
        prefix=prefix,
        max_shard_bytes=max_shard_bytes,
        metadata=checkpoint.metadata,
        token=token,
    )


def _with_prefix(bare: Checkpoint, to: DenoiserLayout) -> dict[str, Any]:
    start = _PREFIX if to == "comfyui" else ""
    return {start + name: tensor for name, tensor in bare.items()}


def _is_original(bare: Checkpoint) -> bool:
    return any(
        name.startswith(("input_blocks.", "double_blocks.", "joint_blocks.")) for name in bare
    )


def _layout_of_original(bare: Checkpoint) -> Layout:
    """Return the layout of a whole file with this denoiser; only its shapes are looked at."""
    facts = {
        f"{_PREFIX}{name}": TensorInfo(one.dtype, one.shape, 0, 0) for name, one in bare.items()
    }
    return layout_of_file(facts, "", _STEP)


def _inferred(layout: Layout, bare: Checkpoint) -> dict[str, Any]:
    match layout.denoiser.kind:
        case "sd3":
            return sd3_config(bare)
        case "flux":
            return flux_config(bare)
        case _:
            return unet_config(bare, layout.name)
