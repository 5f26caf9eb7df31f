"""What a target makes of a source: recipes by component, before anything is read."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.cast import EIGHT_BIT_FLOATS, cast_checkpoint, cast_code
from gen_worker.conversion.classify import parse_weight_file
from gen_worker.conversion.convert.calibrated import calibration_of, takes_data
from gen_worker.conversion.convert.cells import form_of, layouts_for, not_for, refusal_of
from gen_worker.conversion.convert.merged_sources import (
    in_own_precision,
    merge_attributes,
    merged_source,
    refuse_merging,
)
from gen_worker.conversion.convert.quantized_sources import refuse_quantized
from gen_worker.conversion.convert.targets import is_cast
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.container import MAX_NAME_BYTES
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.lazy.stored import unreadable
from gen_worker.conversion.source import QUANTIZABLE, Source
from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gen_worker.conversion.convert.calibrated import Calibration
    from gen_worker.conversion.convert.cells import Form, Library
    from gen_worker.conversion.convert.targets import Target
    from gen_worker.conversion.convert.values import Action, ConversionRequest
    from gen_worker.conversion.layout.single_file import UnpackedPipeline
    from gen_worker.conversion.lazy import Checkpoint, OpenCheckpoint

__all__ = ["Output", "open_source", "outputs_of"]

_LOADED_NAMES = ("model", "diffusion_pytorch_model", "adapter_model", "pytorch_lora_weights")
"""Of weights in a folder; libraries look for no others."""
_TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


_MISFITS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a value of a configuration ends with that no model of its class has."""


class Output(NamedTuple):
    """One component of an output."""

    component: str
    action: Action
    source: Checkpoint
    made: Checkpoint
    """Equal to `source` where nothing is converted."""
    folder: str = ""
    """Whose files are copied as they are; empty where files are written."""
    prefix: str = ""
    """Of the names of its files."""
    metadata: Mapping[str, Any] = {}
    """Of the headers of its files."""
    max_name_bytes: int = MAX_NAME_BYTES
    """Of a tensor in a GGUF file."""
    is_whole_model: bool = False
    """Whether the file has everything, so that no configuration goes along."""
    configs: Mapping[str, Mapping[str, Any]] = {}
    """Configurations that the source has not, by their paths in the output."""
    torch_dtype: str = ""
    """What its configuration says from now on; empty leaves it."""
    quantization: Mapping[str, Any] = {}
    """`quantization_config` of its configuration."""
    reasons: Mapping[str, str] = {}
    """Why tensors stay in a higher precision, by name."""
    attributes: Mapping[str, Any] = {}
    """Of the flavor."""
    calibration: Calibration | None = None
    """What must be done before it is written."""
    read_back: Callable[[Checkpoint], Checkpoint] | None = None
    """Makes tensors like those of `source` of what was written; None where names are the same."""
    notes: tuple[str, ...] = ()
    """What the whole output will not have."""
    stored: Checkpoint | None = None
    """What the files of the source hold, where `source` is merged; else `source` is that."""


def open_source(request: ConversionRequest) -> Source:
    return Source(request.source, variant=request.variant)


def outputs_of(request: ConversionRequest, target: Target) -> tuple[Output, ...]:
    """Return the components of an output; only headers and configurations are read.

    Raises:
        ConversionInputError: This target cannot be made of this source.
        Exception: What `open_checkpoint` raises.
    """
    try:
        return _outputs(request, target)
    except WorkerError:
        raise
    except OSError as error:
        raise unreadable(request.source, error) from error
    except _MISFITS as error:
        raise ConversionInputError(
            f"the configuration in {request.source!r} says what cannot be ({error!r:.200}): take "
            "the one that belongs to the weights",
            file=request.source,
            step="plan",
        ) from error


def _outputs(request: ConversionRequest, target: Target) -> tuple[Output, ...]:
    source = open_source(request)
    refuse_merging(request, target)
    if not target.is_gguf and _is_adapter(source):
        from gen_worker.conversion.convert.adapter_outputs import adapter_outputs

        return tuple(adapter_outputs(request, source, target))
    form = form_of(source, target, request.layout)
    reason = refusal_of(target, form)
    if not reason and form == "folder" and request.layout == "diffusers":
        reason = "it is the folder of one model: give one file with all of a pipeline"
    if not reason and request.layout in ("peft", "kohya"):
        reason = f"it is no LoRA, and {request.layout!r} is a layout of those"
    if not reason and request.configs and form != "file to pipeline":
        reason = "only a file that becomes a pipeline takes configurations of another folder"
    if reason:
        raise ConversionInputError(f"{request.source!r} as {target.name!r}: {reason}", step="plan")
    if form != "gguf file":
        is_plain = is_cast(target) or target.is_gguf
        refuse_quantized(source, _converted(request, source, target, form), is_cast=is_plain)
    if target.is_gguf:
        from gen_worker.conversion.convert.gguf_outputs import gguf_output

        return (gguf_output(request, source, target),)
    if form == "pipeline to file":
        return (_packed(request, target),)
    if form == "file to pipeline":
        return _unpacked(request, target)
    checkpoints = source.checkpoints()
    merged = merged_source(request, checkpoints)
    return tuple(
        _merged(request, target, name, merged[name], checkpoint)
        if name in merged
        else _component(
            request,
            target,
            name,
            checkpoint,
            _prefix(checkpoint.files, request.source),
            os.path.join(request.source, name),
        )
        for name, checkpoint in checkpoints.items()
    )


def _converted(
    request: ConversionRequest, source: Source, target: Target, form: Form
) -> tuple[str, ...]:
    """Return the names of the components that do not stay as they are."""
    if source.file_layout != "diffusers":
        return ("",)
    if target.is_gguf:
        named = request.components or ("transformer", "unet")
        return tuple(name for name in named if name in source.components)
    is_one = form == "pipeline to file"
    return tuple(n for n in source.components if is_one or _is_converted(request, target, n))


def _is_converted(request: ConversionRequest, target: Target, name: str) -> bool:
    if not name:
        return True
    usual = is_cast(target) or name in QUANTIZABLE
    return usual if request.components is None else name in request.components


def _is_adapter(source: Source) -> bool:
    from gen_worker.conversion.convert.adapter_outputs import is_adapter

    return is_adapter(source)


def _merged(
    request: ConversionRequest,
    target: Target,
    name: str,
    merged: OpenCheckpoint,
    stored: OpenCheckpoint,
) -> Output:
    """Return what becomes of a component that a merge or LoRAs change."""
    # A cast rounds once; what stays in a higher precision stays in its own.
    merged = in_own_precision(merged, stored, request.keep if is_cast(target) else ("*",))
    prefix = _prefix(stored.files, request.source)
    made = _component(request, target, name, merged, prefix, "")
    if made.action == "copy":
        same = in_own_precision(merged, stored)
        made = Output(name, "merge", same, same, "", prefix, stored.metadata)
    attributes = {**made.attributes, **merge_attributes(request)}
    return made._replace(stored=stored, attributes=attributes)


def _component(
    request: ConversionRequest,
    target: Target,
    name: str,
    checkpoint: Checkpoint,
    prefix: str,
    folder: str,
) -> Output:
    """Return what becomes of a component.

    Args:
        request: All of it.
        target: What is made.
        name: Of the component.
        checkpoint: Its weights.
        prefix: Of the names of new files.
        folder: Whose files are copied where the component stays as it is; empty writes them anew.
    """
    if not _is_converted(request, target, name):
        return Output(name, "copy", checkpoint, checkpoint, folder, "" if folder else prefix)
    if is_cast(target):
        return _cast(request, target, name, checkpoint, prefix)
    return _quantized(request, target, name, checkpoint, prefix)


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
        "",
        prefix,
        getattr(checkpoint, "metadata", {}),
        torch_dtype=_TORCH_NAMES[code],
        reasons=_left_alone(made, code, request.keep),
    )


def _left_alone(made: Checkpoint, code: str, keep: Sequence[str]) -> dict[str, str]:
    """Return why tensors of floats have another precision than they could."""
    reasons: dict[str, str] = {}
    for name, tensor in made.items():
        is_float = tensor.dtype in (*FLOATS, *EIGHT_BIT_FLOATS)
        if is_float and tensor.dtype != code and any(fnmatchcase(name, one) for one in keep):
            reasons[name] = "asked for"
    return reasons


def _quantized(
    request: ConversionRequest, target: Target, name: str, checkpoint: Checkpoint, prefix: str
) -> Output:
    from gen_worker.conversion.quantize.checkpoint import quantize_checkpoint
    from gen_worker.conversion.quantize.methods import lookup_method
    from gen_worker.conversion.quantize.options import QuantizeOptions
    from gen_worker.conversion.quantize.policy import Policy
    from gen_worker.conversion.quantize.recipes import recipe_for

    library: Library = "diffusers" if prefix == "diffusion_pytorch_model" else "transformers"
    if not name and os.path.isfile(request.source):
        library = "file"
    from gen_worker.conversion.verify.reading import read_quantized

    method = lookup_method(target.token)
    layouts = layouts_for(method, library)
    if not layouts:
        reason = not_for(method, f"{library} for {name or 'a model'!r}")
        raise ConversionInputError(reason, step="quantize")
    is_calibrated = takes_data(request, method, target.token)
    is_static = is_calibrated and not method.is_gptq
    if is_static and layouts[0] != "compressed-tensors":
        raise ConversionInputError(
            f"{name!r} reads no text, and cannot be calibrated with it: leave the data out, or "
            "name the text encoders as the components to convert",
            step="calibrate",
        )
    exclude = tuple(one for one in request.keep if any(fnmatchcase(n, one) for n in checkpoint))
    made = quantize_checkpoint(
        checkpoint,
        target.token,
        Policy(recipe=recipe_for(name), exclude=exclude),
        QuantizeOptions(layout=layouts[0], activations="static" if is_static else "none"),
    )
    work = calibration_of(request, name, checkpoint, made) if is_calibrated else None
    report = made.report

    return Output(
        name,
        "quantize",
        checkpoint,
        made.tensors,
        "",
        prefix,
        {**getattr(checkpoint, "metadata", {}), **made.metadata},
        torch_dtype=_TORCH_NAMES[cast_code(report.options.dtype)] if report.options.dtype else "",
        quantization=made.config,
        reasons={
            tensor: why for tensor, why in report.kept.items() if checkpoint[tensor].dtype in FLOATS
        },
        attributes={
            "quantization_method": report.method,
            "quantization_library": report.layout,
            "quantization_recipe": report.recipe,
            **(work.attributes if work else {}),
        },
        calibration=work,
        read_back=partial(read_quantized({name: made}), name),
    )


def _packed(request: ConversionRequest, target: Target) -> Output:
    from gen_worker.conversion.layout.single_file import packed_pipeline

    if request.components is not None:
        raise ConversionInputError(
            "a single file has all components of a pipeline: name none", step="layout"
        )
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
    return made._replace(is_whole_model=True, torch_dtype="")


def _unpacked(request: ConversionRequest, target: Target) -> tuple[Output, ...]:
    from gen_worker.conversion.layout.single_file import unpacked_pipeline

    unpacked = unpacked_pipeline(request.source, config_dir=request.configs)
    if unpacked.missing:
        raise ConversionInputError(
            f"{request.source!r} lacks {len(unpacked.missing)} tensors of a {unpacked.family} "
            f"model, such as {unpacked.missing[0]!r}",
            tensor=unpacked.missing[0],
            step="layout",
        )
    first, *others = (
        _component(request, target, name, tensors, unpacked.prefix(name), "")
        for name, tensors in unpacked.components.items()
    )
    index = {"model_index.json": unpacked.model_index()}
    configs = index if request.configs else unpacked.files()
    return first._replace(configs=configs, notes=tuple(_lacking(unpacked))), *others


def _lacking(unpacked: UnpackedPipeline) -> Iterator[str]:
    """Yield what a pipeline lacks that is made of one file."""
    needs = (*unpacked.absent, *unpacked.config.needs)
    if needs:
        yield (
            f"{', '.join(needs)} will be missing, the file has none: give the folder of a pipeline "
            "of the same model (--configs on the command line)"
        )
    if unpacked.extra:
        count = "1 tensor" if len(unpacked.extra) == 1 else f"{len(unpacked.extra)} tensors"
        yield f"{count} of the file will be left out, such as {unpacked.extra[0]}: no place for it"


def _prefix(files: Sequence[str], root: str) -> str:
    """Return the beginning of the names of new weights: a loader must find them."""
    info = parse_weight_file(os.path.basename(files[0]))
    base = info.base_key if info is not None else "model"
    return base if base in _LOADED_NAMES or os.path.isfile(root) else "model"
