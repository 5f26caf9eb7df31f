"""Merged sources: what a target is made of where a request merges models or LoRAs."""

from __future__ import annotations

import math
import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import OpenCheckpoint, cast
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.lora.merging import merged_components, no_component, open_adapters
from gen_worker.conversion.merge.methods import merge_by_method
from gen_worker.conversion.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.conversion.convert.targets import Target
    from gen_worker.conversion.convert.values import ConversionRequest, ModelMerge
    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = ["in_own_precision", "merge_attributes", "merged_source", "refuse_merging"]


def merged_source(
    request: ConversionRequest, checkpoints: Mapping[str, OpenCheckpoint]
) -> dict[str, OpenCheckpoint]:
    """Return the components that a merge or LoRAs change, with changed weights in float32.

    Only headers and alphas are read.

    Args:
        request: With or without them.
        checkpoints: All components of the source.

    Raises:
        ConversionInputError: A model or a LoRA does not fit; what does not fit is named.
    """
    made = _merged_models(request, checkpoints) if request.merge is not None else {}
    before = {**checkpoints, **made}
    adapters = open_adapters([(one.path, one.scale) for one in request.loras])

    def opened(name: str) -> Checkpoint:
        if name not in before:
            raise no_component(request.source, name)
        return before[name]

    merged = merged_components(request.source, adapters, opened, in_float32=True)
    return made | {name: _like(before[name], one.tensors) for name, one in merged.items()}


def _merged_models(
    request: ConversionRequest, checkpoints: Mapping[str, OpenCheckpoint]
) -> dict[str, OpenCheckpoint]:
    merge = request.merge
    assert merge is not None, "its caller has looked"
    _check_weights(merge)
    others = [(path, Source(path).checkpoints()) for path in merge.models]
    names = request.components or [
        name for name in checkpoints if all(name in there for _, there in others)
    ]
    if not names:
        raise ConversionInputError(
            f"{request.source!r} and {merge.models[0]!r} have no component in common: give models "
            "of one architecture"
        )
    for path, there in ((request.source, checkpoints), *others):
        for name in names:
            if name not in there:
                raise ConversionInputError(f"{path!r} has no component {name!r}", file=path)
    return {
        name: _merged_component(
            merge, name, checkpoints[name], [there[name] for _, there in others]
        )
        for name in names
    }


def _check_weights(merge: ModelMerge) -> None:
    if len(merge.weights) != len(merge.models):
        raise ConversionInputError(
            f"{len(merge.weights)} weights are given for {len(merge.models)} models: give one each"
        )
    for weight in (merge.source_weight, *merge.weights):
        if not math.isfinite(weight):
            raise ConversionInputError(
                f"the weight {weight} is no number to merge by: give another"
            )
    if merge.method == "slerp" and not 0 <= merge.weights[0] <= 1:
        raise ConversionInputError(
            f"{merge.weights[0]} is no place between two models: give slerp a weight from 0, the "
            "first, to 1, the second"
        )


def _merged_component(
    merge: ModelMerge, name: str, stored: OpenCheckpoint, others: Sequence[Checkpoint]
) -> OpenCheckpoint:
    first = {key: cast(one, "F32") if one.dtype in FLOATS else one for key, one in stored.items()}
    done = merge_by_method(
        [(first, merge.source_weight), *zip(others, merge.weights, strict=True)],
        merge.method,
        density=merge.density,
        seed=merge.seed,
    )
    for names, what in (
        (done.missing, "is not in all models"),
        (done.extra, "is not in the first"),
    ):
        if names:
            where = f"{name}/{names[0]}" if name else names[0]
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ConversionInputError(
                f"tensor {where!r}{more} {what}: merge models of one architecture",
                tensor=names[0],
                step="merge",
            )
    return _like(stored, done.tensors)


def _like(stored: OpenCheckpoint, tensors: Mapping[str, LazyTensor]) -> OpenCheckpoint:
    return OpenCheckpoint(tensors, files=stored.files, metadata=stored.metadata)


def in_own_precision(
    merged: OpenCheckpoint, stored: Checkpoint, patterns: Sequence[str] = ("*",)
) -> OpenCheckpoint:
    """Return merged weights with the source's precision where their names match a pattern."""
    tensors = {
        name: cast(tensor, stored[name].dtype)
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        else tensor
        for name, tensor in merged.items()
    }
    return _like(merged, tensors)


def refuse_merging(request: ConversionRequest, target: Target) -> None:
    """Refuse merges and LoRAs where something else than precisions changes.

    Raises:
        ConversionInputError: It cannot be done on the way.
    """
    if not request.loras and request.merge is None:
        return
    if target.is_gguf or request.layout is not None:
        what = target.name if target.is_gguf else f"the layout {request.layout!r}"
        raise ConversionInputError(
            f"nothing is merged on the way to {what}: merge first, such as to bf16, and convert "
            "the result",
            step="merge",
        )


def merge_attributes(request: ConversionRequest) -> dict[str, str]:
    """Return what a flavor says of the models and LoRAs in it."""
    told: dict[str, str] = {}
    if request.merge is not None:
        told["merge_method"] = request.merge.method
        told["merged_models"] = ",".join(map(os.path.basename, request.merge.models))
    if request.loras:
        scales = (f"{os.path.basename(one.path)}:{one.scale:g}" for one in request.loras)
        told["merged_loras"] = ",".join(scales)
    return told
