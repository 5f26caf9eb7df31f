"""A pipeline of diffusers as one file, and one file as a pipeline of diffusers.

The file has the names of the original code, which A1111 and ComfyUI read, too; Stable Diffusion 3
and FLUX.1 have their text encoders where ComfyUI looks for them.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from gen_worker.conversion.cast import cast_checkpoint, cast_code
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.layout.configs import PipelineConfig, config_at, inferred_config
from gen_worker.conversion.layout.families import layout_of_file, layout_of_pipeline
from gen_worker.conversion.layout.repack import pack, parts_in, unpack
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lazy.weight_sets import holds_weights
from gen_worker.conversion.new_folder import new_folder
from gen_worker.conversion.side_files import copy_side_files, set_config_dtype, write_json
from gen_worker.conversion.writer import MAX_SAFETENSORS_SHARD_BYTES, write_safetensors
from gen_worker.models.formats import read_header
from gen_worker.models.formats.configs import read_config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.lazy import LazyTensor
    from gen_worker.conversion.writer import WrittenFile

__all__ = [
    "DiffusersFolder",
    "PackedPipeline",
    "SingleFile",
    "UnpackedPipeline",
    "convert_diffusers_to_singlefile",
    "diffusers_to_singlefile",
    "packed_pipeline",
    "singlefile_to_diffusers",
    "unpacked_pipeline",
]

_PACK = "diffusers_to_singlefile"
_UNPACK = "singlefile_to_diffusers"
_TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_SHOWN = 8


class PackedPipeline(NamedTuple):
    """A pipeline as the tensors of a single file; nothing is read yet."""

    family: str
    tensors: dict[str, LazyTensor]
    left_out: tuple[str, ...]
    """Folders with weights that a single file has no place for, such as `safety_checker`."""
    extra: tuple[str, ...]
    """Tensors that it has no place for, as `component/name`."""
    missing: tuple[str, ...]
    """Names, or beginnings of names, that the file should have."""


class UnpackedPipeline(NamedTuple):
    """A single file as the components of a pipeline; nothing is read yet."""

    family: str
    components: dict[str, dict[str, LazyTensor]]
    config: PipelineConfig
    extra: tuple[str, ...]
    """Names of tensors that no component has a place for."""
    missing: tuple[str, ...]
    """Names, or beginnings of names, that should have been in the file."""
    absent: tuple[str, ...]
    """Components of the family that are neither in the file nor in `config_dir`."""

    @staticmethod
    def prefix(component: str) -> str:
        """Return what the names of a component's files begin with: its library looks for that."""
        return "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"

    def model_index(self) -> dict[str, Any]:
        """Return the content of `model_index.json`."""
        return {**self.config.model_index, **{name: [None, None] for name in self.absent}}

    def files(self) -> dict[str, Mapping[str, Any]]:
        """Return the content of every configuration by its path in the pipeline's folder."""
        scheduler = "scheduler/scheduler_config.json"
        return {"model_index.json": self.model_index()} | {
            scheduler if name == "scheduler" else f"{name}/config.json": content
            for name, content in self.config.components.items()
        }


class SingleFile(NamedTuple):
    """A single file that was written."""

    family: str
    file: WrittenFile
    left_out: tuple[str, ...]
    """As in `PackedPipeline`."""


class DiffusersFolder(TypedDict):
    """A folder of diffusers that was written."""

    pipeline_class: str
    pipeline_config: dict[str, Any]
    """Content of `model_index.json`."""
    output_dir: str
    family: str
    extra: tuple[str, ...]
    """Names of tensors that no component has a place for; they are left out."""
    absent: tuple[str, ...]
    """Components of the family that are not in the file."""
    needs: tuple[str, ...]
    """Folders that the pipeline names and the file cannot fill; none with `config_dir`."""


def packed_pipeline(directory: str | os.PathLike[str], *, model_family: str = "") -> PackedPipeline:
    """Return a pipeline of diffusers as the tensors of a single file; only headers are read.

    Args:
        directory: With `model_index.json`.
        model_family: Such as `sd15` or `sdxl-pony`; by default what the pipeline's class says.

    Raises:
        NotImplementedFamilyError: There is no such layout for its family.
        ConversionInputError: It is no pipeline, or of another family.
    """
    root = os.fspath(directory)
    index = _config(os.path.join(root, "model_index.json"))
    text_config = _config(os.path.join(root, "text_encoder", "config.json"))
    layout = layout_of_pipeline(index, text_config, model_family, _PACK)
    names = [part.component for part in layout.every]
    there = [name for name in names if _has_weights(os.path.join(root, name))]
    if layout.denoiser.component not in there:
        raise ConversionInputError(
            f"{root!r} has no weights in {layout.denoiser.component!r}: give a whole pipeline",
            file=root,
            step=_PACK,
        )
    moved = pack(
        layout,
        {name: open_checkpoint(os.path.join(root, name)) for name in there},
        {name: _config(os.path.join(root, name, "config.json")) for name in there},
    )
    others = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    left_out = [
        name for name in others if name not in names and _has_weights(os.path.join(root, name))
    ]
    return PackedPipeline(layout.name, moved.tensors, tuple(left_out), moved.extra, moved.missing)


def diffusers_to_singlefile(
    input_dir: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    *,
    model_family: str = "",
    dtype: str = "bf16",
    progress: Callable[[int, int], None] | None = None,
    token: CancelToken | None = None,
) -> SingleFile:
    """Write a pipeline of diffusers as one safetensors file; blocks.

    Args:
        input_dir: With `model_index.json`.
        output_path: The file, `*.safetensors`.
        model_family: By default what the pipeline's class says.
        dtype: `bf16`, `fp16`, `fp32`; empty leaves each tensor as it is.
        progress: Called with the bytes written and to write.
        token: Ends the work between two slabs.

    Raises:
        NotImplementedFamilyError: There is no such layout for its family.
        ConversionInputError: Tensors are missing, or there are some that the file has no place
            for: it would be another model.
    """
    packed = packed_pipeline(input_dir, model_family=model_family)
    _refuse(packed.missing, "are missing", _PACK)
    _refuse(packed.extra, "have no place in a single file", _PACK)
    directory, name = os.path.split(os.path.abspath(os.fspath(output_path)))
    stem, suffix = os.path.splitext(name)
    if suffix != ".safetensors":
        raise ConversionInputError(
            f"{os.fspath(output_path)!r} is not named like a safetensors file: let it end with "
            "'.safetensors'",
            step=_PACK,
        )
    written = write_safetensors(
        cast_checkpoint(packed.tensors, dtype) if dtype else packed.tensors,
        directory,
        prefix=stem,
        max_shard_bytes=sys.maxsize,
        progress=progress,
        token=token,
    )
    return SingleFile(packed.family, written.files[0], packed.left_out)


def convert_diffusers_to_singlefile(
    model_dir: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    *,
    family: str | None = None,
    output_dtype: str = "fp16",
) -> SingleFile:
    """Do as `diffusers_to_singlefile`, in float16."""
    return diffusers_to_singlefile(
        model_dir, output_path, model_family=family or "", dtype=output_dtype
    )


def singlefile_to_diffusers(
    input_path: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    model_family: str = "",
    config_dir: str | os.PathLike[str] = "",
    dtype: str = "bf16",
    max_shard_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
    token: CancelToken | None = None,
) -> DiffusersFolder:
    """Write a single file as a folder of diffusers; blocks. Needs no network.

    Args:
        input_path: Of the file.
        output_dir: Absent or empty.
        model_family: By default what the names of the tensors say.
        config_dir: A pipeline of the same model, for configurations, tokenizers and what is not in
            the file. Without it the configuration is what the shapes of the tensors say, and there
            are no tokenizers.
        dtype: `bf16`, `fp16`, `fp32`; empty leaves each tensor as it is.
        max_shard_bytes: Of tensors in one file.
        token: Ends the work between two slabs.

    Raises:
        NotImplementedFamilyError: The file is of no family that is known.
        ConversionInputError: Tensors are missing, the configuration does not fit or cannot be told,
            or `output_dir` is not empty.
    """
    target, given = os.path.abspath(os.fspath(output_dir)), os.fspath(config_dir)
    unpacked = unpacked_pipeline(input_path, model_family=model_family, config_dir=given)
    _refuse(unpacked.missing, "are missing", _UNPACK)
    with new_folder(target) as place:
        for name, tensors in unpacked.components.items():
            write_safetensors(
                cast_checkpoint(tensors, dtype) if dtype else tensors,
                os.path.join(place, name),
                prefix=unpacked.prefix(name),
                max_shard_bytes=max_shard_bytes,
                token=token,
            )
        _complete(place, unpacked, given, dtype)
    index = unpacked.model_index()
    return DiffusersFolder(
        pipeline_class=str(index.get("_class_name", "")),
        pipeline_config=index,
        output_dir=target,
        family=unpacked.family,
        extra=unpacked.extra,
        absent=unpacked.absent,
        needs=unpacked.config.needs,
    )


def unpacked_pipeline(
    input_path: str | os.PathLike[str],
    *,
    model_family: str = "",
    config_dir: str | os.PathLike[str] = "",
) -> UnpackedPipeline:
    """Return a single file as the components of a pipeline; only its header is read.

    Arguments and errors are those of `singlefile_to_diffusers`, except that tensors which are
    missing are named in the result.
    """
    source, given = os.fspath(input_path), os.fspath(config_dir)
    checkpoint = open_checkpoint(source)
    layout = layout_of_file(read_header(source).tensors, model_family, _UNPACK)
    parts, _ = parts_in(layout, checkpoint)
    config = config_at(given, parts) if given else inferred_config(layout, parts)
    found = unpack(layout, checkpoint, config.components)
    absent = tuple(
        part.component
        for part in layout.every
        if part.component not in found.components
        and not (given and _has_weights(os.path.join(given, part.component)))
    )
    return UnpackedPipeline(
        layout.name, found.components, config, found.extra, found.missing, absent
    )


def _complete(place: str, unpacked: UnpackedPipeline, given: str, dtype: str) -> None:
    """Put beside the weights what is none."""
    written = unpacked.components
    if given:
        write_json(os.path.join(place, "model_index.json"), unpacked.model_index())
        for name in written:
            copy_side_files(os.path.join(given, name), os.path.join(place, name))
        copy_side_files(given, place, skip={*written, *unpacked.absent})
    else:
        for path, content in unpacked.files().items():
            write_json(os.path.join(place, path), content)
    if dtype:
        for name in written:
            set_config_dtype(os.path.join(place, name), _TORCH_NAMES[cast_code(dtype)])


def _config(path: str) -> dict[str, Any]:
    found = read_config(path) if os.path.isfile(path) else None
    return found if isinstance(found, dict) else {}


def _has_weights(directory: str) -> bool:
    return os.path.isdir(directory) and holds_weights(directory)


def _refuse(names: Sequence[str], what: str, step: str) -> None:
    if names:
        shown = ", ".join(names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ConversionInputError(
            f"tensors {what}: {shown}{more}; check that file, family and configurations belong "
            "to one model",
            tensor=names[0],
            step=step,
        )
