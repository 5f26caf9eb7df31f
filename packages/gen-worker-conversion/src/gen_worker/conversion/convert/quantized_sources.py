"""Sources that are quantised already: a plan refuses to convert what was rounded before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.cast import EIGHT_BIT_FLOATS, quantized_modules
from gen_worker.conversion.errors import ConversionInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.conversion.lazy import OpenCheckpoint
    from gen_worker.conversion.source import Source

__all__ = ["quantization_of", "refuse_quantized"]


def quantization_of(config: Mapping[str, Any]) -> str:
    """Return the method that `quantization_config` names; empty without one."""
    told = config.get("quantization_config")
    if not isinstance(told, dict):
        return ""
    name = told.get("quant_method") or told.get("quant_algo")
    return name if isinstance(name, str) else "unknown"


def refuse_quantized(source: Source, names: Iterable[str], *, is_cast: bool) -> None:
    """Refuse components whose weights are quantised.

    Args:
        source: Of them.
        names: Of those to be converted; empty for a model in one folder or file.
        is_cast: Whether every number becomes another float: then floats of 8 bits without scales
            are numbers like others.

    Raises:
        ConversionInputError: One is.
        Exception: What `open_checkpoint` raises.
    """
    wanted = tuple(names)
    is_pipeline = source.file_layout == "diffusers"
    checkpoints = source.checkpoints(wanted if is_pipeline else None)
    for name, checkpoint in checkpoints.items():
        config = source.components[name].config if is_pipeline else source.config()
        what = _quantization(config, checkpoint) or ("" if is_cast else _stored(checkpoint))
        if what:
            place = os.path.join(source.path, name) if name else os.fspath(source.path)
            others = ", or name the other components, and it is copied" if is_pipeline else ""
            raise ConversionInputError(
                f"{place!r} is quantised already ({what}): convert the model that it was made of"
                f"{others}",
                file=place,
                step="plan",
            )


def _quantization(config: Mapping[str, Any], checkpoint: OpenCheckpoint) -> str:
    """Return how a component is quantised; empty where it is not."""
    named = quantization_of(config)
    if named:
        return named
    if any(file.lower().endswith(".gguf") for file in checkpoint.files):
        return "GGUF"
    modules = quantized_modules(checkpoint)
    return f"weights of {min(modules)!r} are packed" if modules else ""


def _stored(checkpoint: OpenCheckpoint) -> str:
    """Return which weights are floats of 8 bits without scales; empty where none are."""
    found = (name for name, one in checkpoint.items() if one.dtype in EIGHT_BIT_FLOATS)
    name = min(found, default="")
    return f"{name!r} is {checkpoint[name].dtype}" if name else ""
