"""Several models of one shape as one: sums, arcs and differences, made lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.merge.checkpoints import (
        MergedModels,
        Weights,
        add_differences,
        merge_dare,
        merge_linear,
        merge_slerp,
        merge_task_arithmetic,
        merge_ties,
    )
    from gen_worker.conversion.merge.folders import merge_models

__all__ = [
    "MergedModels",
    "Weights",
    "add_differences",
    "merge_dare",
    "merge_linear",
    "merge_models",
    "merge_slerp",
    "merge_task_arithmetic",
    "merge_ties",
]

_MODULES = {
    "checkpoints": (
        "MergedModels",
        "Weights",
        "add_differences",
        "merge_dare",
        "merge_linear",
        "merge_slerp",
        "merge_task_arithmetic",
        "merge_ties",
    ),
    "folders": ("merge_models",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
