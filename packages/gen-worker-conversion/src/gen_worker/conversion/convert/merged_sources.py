"""Sources with LoRAs in them: what a target is made of where a request merges some."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import OpenCheckpoint, cast
from gen_worker.conversion.lora.merging import merged_components, no_component, open_adapters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.conversion.convert.targets import Target
    from gen_worker.conversion.convert.values import ConversionRequest
    from gen_worker.conversion.lazy import Checkpoint

__all__ = ["in_own_precision", "lora_attributes", "merged_source", "refuse_loras"]


def merged_source(
    request: ConversionRequest, checkpoints: Mapping[str, OpenCheckpoint]
) -> dict[str, OpenCheckpoint]:
    """Return the components that LoRAs change, with changed weights in float32.

    Only headers and alphas are read.

    Args:
        request: With or without LoRAs.
        checkpoints: All components of the source.

    Raises:
        ConversionInputError: A LoRA does not fit the model; what does not fit is named.
    """
    adapters = open_adapters([(one.path, one.scale) for one in request.loras])

    def opened(name: str) -> Checkpoint:
        if name not in checkpoints:
            raise no_component(request.source, name)
        return checkpoints[name]

    merged = merged_components(request.source, adapters, opened, in_float32=True)
    return {
        name: OpenCheckpoint(
            one.tensors, files=checkpoints[name].files, metadata=checkpoints[name].metadata
        )
        for name, one in merged.items()
    }


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
    return OpenCheckpoint(tensors, files=merged.files, metadata=merged.metadata)


def refuse_loras(request: ConversionRequest, target: Target) -> None:
    """Refuse LoRAs where something else than precisions changes.

    Raises:
        ConversionInputError: They cannot be merged on the way.
    """
    if request.loras and (target.is_gguf or request.layout is not None):
        what = target.name if target.is_gguf else f"the layout {request.layout!r}"
        raise ConversionInputError(
            f"LoRAs are not merged on the way to {what}: merge them into a model first, such as "
            "with bf16, and convert that",
            step="merge",
        )


def lora_attributes(request: ConversionRequest) -> dict[str, str]:
    """Return what a flavor says of the LoRAs in it."""
    told = (f"{os.path.basename(one.path)}:{one.scale:g}" for one in request.loras)
    return {"merged_loras": ",".join(told)} if request.loras else {}
