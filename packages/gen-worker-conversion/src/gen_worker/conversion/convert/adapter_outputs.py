"""LoRAs as sources: in another precision, and in another format."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gen_worker.conversion.cast import cast_checkpoint
from gen_worker.conversion.classify.adapters import are_adapter_names
from gen_worker.conversion.convert.outputs import Output
from gen_worker.conversion.convert.targets import is_cast
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lora.reading import CONFIG, open_adapter, peft_parts
from gen_worker.conversion.lora.writing import adapter_files

if TYPE_CHECKING:
    from gen_worker.conversion.convert.targets import Target
    from gen_worker.conversion.convert.values import ConversionRequest
    from gen_worker.conversion.lazy import Checkpoint
    from gen_worker.conversion.lora.writing import AdapterFile, AdapterFormat
    from gen_worker.conversion.source import Source

__all__ = ["adapter_outputs", "is_adapter"]

_ALPHAS = "*.alpha"


def is_adapter(source: Source) -> bool:
    """Tell whether a source is a LoRA or the like; reads the header of a single file or folder."""
    if source.file_layout == "diffusers":
        return False
    if peft_parts(os.fspath(source.path)):
        return True
    return are_adapter_names(source.checkpoints()[""].keys())


def adapter_outputs(request: ConversionRequest, source: Source, target: Target) -> list[Output]:
    """Return the files that a LoRA becomes; only headers and alphas are read.

    Alphas keep their precision: rounded ones would scale the whole update.

    Raises:
        ConversionInputError: The precision or the format cannot be had.
    """
    if request.configs:
        raise ConversionInputError(
            f"{request.source!r} is a LoRA, and takes no configurations of a pipeline: leave them "
            "out",
            step="plan",
        )
    if request.loras or request.merge is not None:
        raise ConversionInputError(
            f"{request.source!r} is a LoRA, and nothing is merged into those: merge each of them "
            "into the model, which takes several",
            step="merge",
        )
    if not is_cast(target):
        raise ConversionInputError(
            f"a LoRA of {target.name!r} has no loader: give bf16, fp16 or fp32, or merge it into a "
            "model and quantise that",
            step="plan",
        )
    place = os.fspath(source.path)
    layout = request.layout
    if layout is None and peft_parts(place):
        layout = "peft"
    if layout is None:
        return [_as_it_is(request, source, target)]
    if layout == "singlefile":
        raise ConversionInputError(
            f"{place!r} is a LoRA, whose layouts are diffusers, kohya and peft: give one of those",
            step="layout",
        )
    files = _files(place, layout)
    made = [
        Output(
            file.folder,
            "cast",
            file.tensors,
            _cast(request, target, file.tensors),
            "",
            file.prefix,
            file.metadata,
            is_whole_model=True,
        )
        for file in files
    ]
    configs = {os.path.join(file.folder, CONFIG): file.config for file in files if file.config}
    return [made[0]._replace(configs=configs), *made[1:]]


def _cast(request: ConversionRequest, target: Target, tensors: Checkpoint) -> Checkpoint:
    return cast_checkpoint(tensors, target.token, skip=(_ALPHAS, *request.keep))


def _as_it_is(request: ConversionRequest, source: Source, target: Target) -> Output:
    checkpoint = source.checkpoints()[""]
    stem = os.path.splitext(os.path.basename(checkpoint.files[0]))[0]
    return Output(
        "",
        "cast",
        checkpoint,
        _cast(request, target, checkpoint),
        "",
        stem if len(checkpoint.files) == 1 else "adapter_model",
        checkpoint.metadata,
    )


def _files(place: str, layout: AdapterFormat) -> list[AdapterFile]:
    adapter = open_adapter(place)
    if adapter.unknown:
        raise ConversionInputError(
            f"{place!r} has {len(adapter.unknown)} tensors that {layout} has no place for, such as "
            f"{adapter.unknown[0]!r}: keep its format",
            file=place,
            tensor=adapter.unknown[0],
            step="layout",
        )
    return adapter_files(adapter, to=layout)
