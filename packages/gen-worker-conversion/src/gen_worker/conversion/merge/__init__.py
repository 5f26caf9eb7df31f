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
    from gen_worker.conversion.merge.methods import METHODS, MergeMethod, merge_by_method

__all__ = [
    "METHODS",
    "MergeMethod",
    "MergedModels",
    "Weights",
    "add_differences",
    "merge_by_method",
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
    "methods": ("METHODS", "MergeMethod", "merge_by_method"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
