"""Weights of other programs: which there are instead of safetensors, and how that is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gen_worker.conversion.classify.refusals import REFUSALS, RepoRefusal
from gen_worker.models.formats import UNSAFE_SUFFIXES
from gen_worker.models.sources.safety import suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["foreign_kind", "is_pickle", "refusal_for"]

_FOREIGN: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("openvino_only", r"(?:.*/)?openvino[^/]*\.(?:xml|bin)"),
        ("tf_keras_only", r".*\.(?:h5|hdf5|keras)|(?:.*/)?saved_model\.pb|.*\.ckpt\.index"),
        ("onnx_only", r".*\.onnx(?:_data)?"),
        ("tflite_only", r".*\.tflite"),
        ("tensorrt_only", r".*\.(?:engine|plan|trt)"),
        ("coreml_only", r".*\.mlmodel|.*\.(?:mlpackage|mlmodelc)/.*"),
        ("flax_only", r".*\.msgpack"),
        ("nemo_only", r".*\.nemo"),
    )
)
_REMEDY = "convert it to safetensors first, or choose a repository that has them"


def is_pickle(path: str) -> bool:
    """Tell whether a file holds weights that can run code."""
    return suffix_of(path) in UNSAFE_SUFFIXES and foreign_kind(path) == "pickle_only"


def foreign_kind(path: str) -> str:
    """Return the kind of refusal that a file by itself leads to; empty when it is no weights."""
    found = next((kind for kind, pattern in _FOREIGN if pattern.fullmatch(path)), "")
    return found or ("pickle_only" if suffix_of(path) in UNSAFE_SUFFIXES else "")


def refusal_for(paths: Iterable[str], ref: str, *, component: str = "") -> RepoRefusal:
    """Return why these files are no usable model.

    Args:
        paths: Of the model, or of one component.
        ref: For the message.
        component: Likewise.
    """
    kinds: dict[str, list[str]] = {}
    for path in sorted(paths):
        kind = foreign_kind(path)
        if kind:
            kinds.setdefault(kind, []).append(path)
    where = f"component {component!r} of model {ref!r}" if component else f"model {ref!r}"
    if len(kinds) == 1:
        (kind, files), *_ = kinds.items()
        return REFUSALS[kind](
            f"{where} has its weights only as {files[0]!r}: {_REMEDY}", ref=ref, files=files
        )
    if kinds:
        files = [found[0] for found in kinds.values()]
        return REFUSALS["missing_safetensors"](
            f"{where} has no safetensors, only {', '.join(map(repr, files))}: {_REMEDY}",
            ref=ref,
            files=files,
        )
    if component:
        return REFUSALS["missing_safetensors"](
            f"{where} has no weights: choose another revision", ref=ref
        )
    return REFUSALS["unknown_shape"](
        f"{where} has no weights of a model at its root: choose a repository that has", ref=ref
    )
