"""What a target makes of a source: recipes by component, before anything is read."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.cast import cast_checkpoint, cast_code
from gen_worker.conversion.classify import parse_weight_file
from gen_worker.conversion.convert.targets import is_cast
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.conversion.convert.targets import Target
    from gen_worker.conversion.convert.values import Action, ConversionRequest
    from gen_worker.conversion.lazy import Checkpoint, OpenCheckpoint

__all__ = ["Output", "open_source", "outputs_of"]

_LOADED_NAMES = ("model", "diffusion_pytorch_model", "adapter_model", "pytorch_lora_weights")
"""Of weights in a folder; libraries look for no others."""
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


class Output(NamedTuple):
    """One component of an output."""

    component: str
    action: Action
    source: Checkpoint
    made: Checkpoint
    """Equal to `source` where files are copied."""
    prefix: str
    """Of the names of its files."""
    metadata: Mapping[str, str]
    is_one_file: bool = False
    torch_dtype: str = ""
    """What its configuration says from now on; empty leaves it."""
    reasons: Mapping[str, str] = {}
    """Why tensors stay as they are, by name; only where that is worth saying."""


def open_source(request: ConversionRequest) -> Source:
    return Source(request.source, variant=request.variant)


def outputs_of(request: ConversionRequest, target: Target) -> tuple[Output, ...]:
    """Return the components of an output; only headers and configurations are read.

    Raises:
        ConversionInputError: This target cannot be made of this source.
        Exception: What `open_checkpoint` raises.
    """
    source = open_source(request)
    if not is_cast(target):
        raise ConversionInputError(
            f"there is no method here that makes {target.name!r}: give bf16, fp16 or fp32"
        )
    if request.layout == "singlefile" and source.file_layout == "diffusers":
        return (_packed(request, target),)
    return tuple(
        _component(request, target, name, checkpoint)
        for name, checkpoint in source.checkpoints().items()
    )


def _component(
    request: ConversionRequest, target: Target, name: str, checkpoint: OpenCheckpoint
) -> Output:
    if name and request.components is not None and name not in request.components:
        return Output(name, "copy", checkpoint, checkpoint, "", {})
    return _cast(request, target, name, checkpoint, _prefix(checkpoint.files, request.source))


def _packed(request: ConversionRequest, target: Target) -> Output:
    from gen_worker.conversion.layout.single_file import packed_pipeline

    packed = packed_pipeline(request.source)
    for names, what in ((packed.missing, "are missing"), (packed.extra, "have no place in it")):
        if names:
            raise ConversionInputError(
                f"{request.source!r} cannot be a single file: {len(names)} tensors {what}, such as "
                f"{names[0]!r}",
                tensor=names[0],
                step="layout",
            )
    made = _cast(request, target, "", packed.tensors, "model")
    return made._replace(is_one_file=True, torch_dtype="")


def _cast(
    request: ConversionRequest, target: Target, name: str, checkpoint: Checkpoint, prefix: str
) -> Output:
    made = cast_checkpoint(checkpoint, target.token, skip=request.keep)
    code = cast_code(target.token)
    return Output(
        name,
        "cast",
        checkpoint,
        made,
        prefix,
        getattr(checkpoint, "metadata", {}),
        torch_dtype=TORCH_NAMES[code],
        reasons=_left_alone(made, code, request.keep),
    )


def _left_alone(made: Checkpoint, code: str, keep: Sequence[str]) -> dict[str, str]:
    """Return why tensors of floats have another precision than they could."""
    reasons: dict[str, str] = {}
    for name, tensor in made.items():
        if tensor.dtype in FLOATS and tensor.dtype != code:
            asked = any(fnmatchcase(name, pattern) for pattern in keep)
            reasons[name] = "asked for" if asked else "belongs to weights that are quantised"
    return reasons


def _prefix(files: Sequence[str], root: str) -> str:
    """Return the beginning of the names of new weights: a loader must find them."""
    info = parse_weight_file(os.path.basename(files[0]))
    base = info.base_key if info is not None else "model"
    return base if base in _LOADED_NAMES or os.path.isfile(root) else "model"
