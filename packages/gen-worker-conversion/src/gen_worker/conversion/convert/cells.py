"""Which target is made of which kind of source: what plans refuse by, and the guide's tables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from gen_worker.conversion.convert.targets import Target, is_cast
from gen_worker.conversion.gguf.types import NOT_WRITTEN, WRITTEN
from gen_worker.conversion.quantize.methods import LOADERS, METHODS, OTHERS_METHODS, lookup_method
from gen_worker.conversion.vocabulary import resolve_fuzzy_to_concrete

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from gen_worker.conversion.convert.values import OutputLayout
    from gen_worker.conversion.quantize.methods import Layout, Method
    from gen_worker.conversion.source import Source

__all__ = [
    "CASTS",
    "FORMS",
    "Cell",
    "Form",
    "Library",
    "cells",
    "form_of",
    "layouts_for",
    "precision_of_bits",
    "refusal_of",
    "refused_names",
]

Form = Literal["pipeline", "folder", "file", "gguf file", "pipeline to file", "file to pipeline"]
"""What a source is, and what it becomes where `--layout` says so."""
Library = Literal["diffusers", "transformers", "file"]
"""What reads a component; `file` where no configuration lies beside the weights."""
Extent = Literal["whole", "text encoders", "none"]

FORMS: tuple[Form, ...] = get_args(Form)
CASTS = ("fp32", "fp16", "bf16")
_PIPELINES = ("pipeline", "file to pipeline")
_GGUF_FORMS = ("pipeline", "folder", "gguf file")
_KINDS = {"pipeline to file": "aio_singlefile", "file to pipeline": "diffusers"}
"""What an output is whose layout is another than the source's, as `vocabulary.SourceKind`."""


class Cell(NamedTuple):
    """A target, a kind of source, and whether the one is made of the other."""

    token: str
    form: Form
    extent: Extent
    """`text encoders` of a pipeline have to be named: its denoiser cannot have the method."""
    reason: str
    """Why it is not made; empty where it is."""
    layouts: tuple[Layout, ...] = ()
    """Of quantized weights, as they are written."""
    is_calibrated: bool = False
    """Whether it is made with data to calibrate with, and refused without."""


def cells() -> Iterator[Cell]:
    """Yield every pair of a target and a kind of source, those that are refused included."""
    targets = [Target(token, False) for token in (*CASTS, *METHODS)]
    targets += [Target(token, True) for token in WRITTEN]
    for target in targets:
        for form in FORMS:
            if target.is_gguf and " to " in form:
                continue  # a GGUF file has a layout of its own
            reason = refusal_of(target, form)
            extent: Extent = "none" if reason else _extent(target, form)
            method = None if target.is_gguf or is_cast(target) else lookup_method(target.token)
            yield Cell(
                target.name,
                form,
                extent,
                reason,
                () if reason or method is None else _layouts(method, form),
                method is not None and method.calibration == "required",
            )


def refused_names() -> tuple[str, ...]:
    """Return the names of targets that are made of no source here."""
    return (*OTHERS_METHODS, *(f"gguf:{token}" for token in NOT_WRITTEN))


def form_of(source: Source, target: Target, layout: OutputLayout | None) -> Form:
    """Tell what a source is, and what it becomes."""
    if source.file_layout == "diffusers":
        is_packed = layout == "singlefile" and not target.is_gguf
        return "pipeline to file" if is_packed else "pipeline"
    if os.path.isdir(source.path):
        return "gguf file" if _has_gguf_alone(source.path) else "folder"
    if source.path.suffix.lower() == ".gguf":
        return "gguf file"
    return "file to pipeline" if layout == "diffusers" else "file"


def _has_gguf_alone(folder: Path) -> bool:
    """Tell whether the weights of a folder are GGUF files: safetensors beside them count first."""
    suffixes = {os.path.splitext(name)[1].lower() for name in os.listdir(folder)}
    return ".gguf" in suffixes and ".safetensors" not in suffixes


def precision_of_bits(
    text: str, source_kind: str, *, form: Form, available: Collection[str], own: str = ""
) -> str:
    """Return what a number of bits comes to: the first precision that all of the output can have.

    Args:
        text: Such as `4bit`.
        source_kind: See `vocabulary.SourceKind`; `gguf` where that is what is made.
        form: What the source is, and what it becomes.
        available: What can be made.
        own: Precision that the source has already.

    Raises:
        ValidationError: There is none of so many bits.
    """
    kind = source_kind if source_kind == "gguf" else _KINDS.get(form, source_kind)
    made = {token for token in available if _is_made_whole(token, form)}
    return resolve_fuzzy_to_concrete(
        text, source_kind=kind, available_dtypes={*made, *filter(None, (own,))}
    )


def _is_made_whole(token: str, form: Form) -> bool:
    """Tell whether a number of bits may come to a precision: of pipelines, all must have it."""
    target = Target(token, token in WRITTEN)
    if form not in _PIPELINES or target.is_gguf:
        return True
    return not refusal_of(target, form) and _extent(target, form) == "whole"


def refusal_of(target: Target, form: Form) -> str:
    """Return why a target is not made of such a source; empty where it is."""
    if target.is_gguf:
        return "" if form in _GGUF_FORMS else _NO_GGUF
    if form == "gguf file":
        return _NO_NAMES
    if is_cast(target):
        return ""
    method = lookup_method(target.token)
    if form == "pipeline to file":
        return f"a single file of {target.name!r} has no loader: give bf16, fp16 or fp32"
    if form == "file to pipeline" and method.calibration == "required":
        return (
            f"{target.name!r} reads text, and a file has no tokenizer: make a pipeline of it first"
        )
    if form in _PIPELINES or layouts_for(method, _library(form)):
        return ""
    return not_for(method, "a single file")


def layouts_for(method: Method, library: Library) -> tuple[Layout, ...]:
    """Return the layouts of a method that a library reads, the default first."""
    return tuple(one for one in method.layouts if one == "plain" or library in LOADERS[one])


def not_for(method: Method, what: str) -> str:
    """Return why a method is none for something that has no reader of its layouts."""
    return (
        f"{method.name!r} is written as {' or '.join(method.layouts)}, which is not for {what}: "
        "choose another precision"
    )


def _library(form: Form) -> Library:
    return "transformers" if form == "folder" else "file"


def _layouts(method: Method, form: Form) -> tuple[Layout, ...]:
    """Return the first layout for each library that reads such an output."""
    libraries: tuple[Library, ...] = (
        ("diffusers", "transformers") if form in _PIPELINES else (_library(form),)
    )
    found = (layouts_for(method, library)[:1] for library in libraries)
    return tuple(dict.fromkeys(one for layouts in found for one in layouts))


def _extent(target: Target, form: Form) -> Literal["whole", "text encoders"]:
    if target.is_gguf or is_cast(target) or form not in _PIPELINES:
        return "whole"
    is_read = layouts_for(lookup_method(target.token), "diffusers")
    return "whole" if is_read else "text encoders"


_NO_GGUF = (
    "GGUF files are made of the folder of a language model or a sentence encoder, of a pipeline's "
    "denoiser, and of GGUF files: give one of those"
)
_NO_NAMES = (
    "it has the names of llama.cpp, which no library reads from safetensors: convert the model "
    "that it was made of"
)
