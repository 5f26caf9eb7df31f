"""Where an artifact comes from, as its revision says it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Parent",
    "check_quantization",
    "parent_of",
    "quantization_facts",
    "relationship_of",
]

_RELATIONSHIPS = {
    "quantization": "quantization",
    "format-conversion": "format-conversion",
    "distillation": "distillation",
    "pruning": "pruning",
    "fine-tune": "fine-tune",
    "fine-tuning": "fine-tune",
}
_LIBRARIES = {
    "nf4": "bitsandbytes",
    "int4_awq": "modelopt",
    "w4a8_awq": "modelopt",
    "nvfp4": "modelopt",
    "fp8": "modelopt",
    "int8": "modelopt",
    "int4_wo": "torchao",
    "svdquant": "nunchaku",
    "hqq": "hqq",
}
"""Of methods of quantization that name no library themselves."""
_REPO_REF = re.compile(r"([^/@:#\s]+/[^/@:#\s]+)(?::[^@#]*)?(?:@([^#]+))?(?:#.*)?")
_ID_CHARS = 64


class Parent(NamedTuple):
    """What an artifact was made from; both None for a root."""

    repo: str | None
    checkpoint_id: str | None


def relationship_of(job_kind: str) -> str:
    """Return how an artifact of this kind of job relates to its source."""
    return _RELATIONSHIPS.get(job_kind.partition(":")[0], "manual-fork")


def parent_of(source: Mapping[str, Any], source_path: str | None) -> Parent:
    """Return the parent that the payload's `source` names.

    Its checkpoint is the one the payload asked for, the one that the ref is pinned to, or the one
    that the directory of the fetched source is named after.
    """
    ref = source.get("ref")
    match = _REPO_REF.fullmatch(str(ref)) if ref else None
    pinned = source.get("checkpoint_id") or (match[2] if match else None)
    folder = os.path.basename(os.path.normpath(source_path or ""))
    if not pinned and (":" in folder or len(folder) == _ID_CHARS):
        pinned = folder
    return Parent(match[1] if match else ref, str(pinned) if pinned else None)


def quantization_facts(label: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the lineage of a quantized artifact says of the method; empty for none."""
    asked = ("quantization_method", "quant_method", "quant_scheme")
    method = next((str(attributes[name]) for name in asked if attributes.get(name)), "")
    known = label.lower().replace("-", "_")
    method = method or (known if known in _LIBRARIES else "")
    libraries = (attributes.get("quantization_library"), attributes.get("quant_library"))
    library = next((str(name) for name in libraries if name), _LIBRARIES.get(method, ""))
    params = attributes.get("quantization_params")
    facts: dict[str, Any] = {"quantization_method": method, "quantization_library": library}
    facts |= {"quantization_params": params} if isinstance(params, dict) else {}
    return {name: value for name, value in facts.items() if value}


def check_quantization(label: str, attributes: Mapping[str, Any]) -> None:
    """Refuse an artifact that says only half of how it was quantized, which hubs do.

    Raises:
        ValidationError: Its method or its library is missing; one of neither is not quantized.
    """
    facts = quantization_facts(label, attributes)
    names = {"quantization_method", "quantization_library"}
    missing = sorted(names - facts.keys())
    if len(missing) == 1:
        raise ValidationError(
            f"artifact {label!r} of a quantization says {sorted(names & facts.keys())[0]} and no "
            f"{missing[0]}: give it both attributes"
        )
