"""From a model's files to the live object that a parameter's annotation asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.loading.errors import (
        AnnotationNeededError,
        ComponentLoadError,
        ConfigNeededError,
        MissingComponentsError,
        MissingPackageError,
        ModelLoadError,
        ModelNotFoundError,
        NoProviderError,
        PipelineLoaderError,
        TypeMismatchError,
        UnknownClassError,
        UnsupportedFormatError,
    )
    from gen_worker.models.loading.libraries import class_named
    from gen_worker.models.loading.loader import load
    from gen_worker.models.loading.planning import plan, plan_component
    from gen_worker.models.loading.shared import (
        LoadedComponentKey,
        SharedComponentCache,
        build_function_owned_pipeline,
        is_shareable,
    )
    from gen_worker.models.loading.steps import Watch, watch
    from gen_worker.models.loading.values import ComponentPlan, Loaded, LoadPlan, Quantization

__all__ = [
    "AnnotationNeededError",
    "ComponentLoadError",
    "ComponentPlan",
    "ConfigNeededError",
    "LoadPlan",
    "Loaded",
    "LoadedComponentKey",
    "MissingComponentsError",
    "MissingPackageError",
    "ModelLoadError",
    "ModelNotFoundError",
    "NoProviderError",
    "PipelineLoaderError",
    "Quantization",
    "SharedComponentCache",
    "TypeMismatchError",
    "UnknownClassError",
    "UnsupportedFormatError",
    "Watch",
    "build_function_owned_pipeline",
    "class_named",
    "is_shareable",
    "load",
    "plan",
    "plan_component",
    "watch",
]

_MODULES = {
    "errors": (
        "AnnotationNeededError",
        "ComponentLoadError",
        "ConfigNeededError",
        "MissingComponentsError",
        "MissingPackageError",
        "ModelLoadError",
        "ModelNotFoundError",
        "NoProviderError",
        "PipelineLoaderError",
        "TypeMismatchError",
        "UnknownClassError",
        "UnsupportedFormatError",
    ),
    "libraries": ("class_named",),
    "loader": ("load",),
    "planning": ("plan", "plan_component"),
    "shared": (
        "LoadedComponentKey",
        "SharedComponentCache",
        "build_function_owned_pipeline",
        "is_shareable",
    ),
    "steps": ("Watch", "watch"),
    "values": ("ComponentPlan", "LoadPlan", "Loaded", "Quantization"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
