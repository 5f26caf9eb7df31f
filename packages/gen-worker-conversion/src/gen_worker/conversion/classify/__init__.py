"""What a repository of weights is: told by headers and configurations, before weights move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.classify.layouts import (
        SourceLayoutInfo,
        detect_huggingface_source_layout,
    )
    from gen_worker.conversion.classify.refusals import REFUSALS, RefusalKind, RepoRefusal
    from gen_worker.conversion.classify.rules import classify
    from gen_worker.conversion.classify.values import (
        Classification,
        ClassificationInputs,
        SafetensorsFacts,
    )
    from gen_worker.conversion.classify.weight_names import (
        WeightFileInfo,
        filter_by_source_dtype_preference,
        parse_weight_file,
        read_safetensors_header_dtype,
    )

__all__ = [
    "REFUSALS",
    "Classification",
    "ClassificationInputs",
    "RefusalKind",
    "RepoRefusal",
    "SafetensorsFacts",
    "SourceLayoutInfo",
    "WeightFileInfo",
    "classify",
    "detect_huggingface_source_layout",
    "filter_by_source_dtype_preference",
    "parse_weight_file",
    "read_safetensors_header_dtype",
]

_MODULES = {
    "layouts": ("SourceLayoutInfo", "detect_huggingface_source_layout"),
    "refusals": ("REFUSALS", "RefusalKind", "RepoRefusal"),
    "rules": ("classify",),
    "values": ("Classification", "ClassificationInputs", "SafetensorsFacts"),
    "weight_names": (
        "WeightFileInfo",
        "filter_by_source_dtype_preference",
        "parse_weight_file",
        "read_safetensors_header_dtype",
    ),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
