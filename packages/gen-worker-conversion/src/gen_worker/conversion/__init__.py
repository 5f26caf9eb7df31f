"""Endpoints that produce weights and datasets.

The package doubles as the decorator of the same name: `@conversion(...)`, `@conversion.function`
and `@conversion.stage` work whether `conversion` came from `from gen_worker import conversion` or
is this module.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gen_worker.endpoint.classes import conversion as _decorator

if TYPE_CHECKING:
    from gen_worker.context import (
        ConversionContext,
        DatasetContext,
    )
    from gen_worker.conversion.artifacts import (
        ConversionArtifact,
        ConversionOutput,
        IngestResult,
        persist_safetensors_output,
        tensors_with,
    )
    from gen_worker.conversion.calibration import (
        CalibrationAction,
        CalibrationPolicy,
        lookup_policy,
        resolve_calibration_action,
        validate_policy_map,
    )
    from gen_worker.conversion.cast import (
        cast_checkpoint,
    )
    from gen_worker.conversion.components import (
        LoadedComponent,
    )
    from gen_worker.conversion.dataset import (
        Dataset,
        DatasetError,
        DatasetWriter,
    )
    from gen_worker.conversion.errors import (
        ConversionError,
        ConversionImplementationError,
        ConversionInputError,
        OutputSpaceError,
    )
    from gen_worker.conversion.lazy import (
        open_checkpoint,
    )
    from gen_worker.conversion.output_writer import (
        StreamingWriter,
        copy_unconverted_components,
    )
    from gen_worker.conversion.provenance import (
        Provenance,
        write_proof,
    )
    from gen_worker.conversion.source import (
        Component,
        FileLayout,
        Source,
    )
    from gen_worker.conversion.streaming import (
        list_shard_files_from_index,
        materialize_safetensors_input,
        shard_safetensors_by_offset,
        streaming_dtype_cast,
        streaming_gpu_quantize,
    )
    from gen_worker.conversion.validation import (
        ValidationReport,
        ValidationViolation,
        format_report,
        validate_transform_module,
    )
    from gen_worker.conversion.verify import (
        Limits,
        QualityGate,
        VerificationError,
        VerificationReport,
        verify_output,
    )
    from gen_worker.conversion.writer import (
        MAX_SAFETENSORS_SHARD_BYTES,
        IncrementalSafetensorsWriter,
        build_safetensors_index,
        plan_safetensors_shards,
        write_safetensors,
    )
    from gen_worker.endpoint.job_record import (
        TrainingFunctionSpec,
    )
    from gen_worker.endpoint.jobs import (
        DEFAULT_KIND,
        RECOMMENDED_KINDS,
        training_function,
    )
    from gen_worker.types import (
        DatasetRef,
        DestinationRepo,
        OutputSpec,
        ProducedFlavor,
        SourceRepo,
    )

__all__ = [
    "DEFAULT_KIND",
    "MAX_SAFETENSORS_SHARD_BYTES",
    "RECOMMENDED_KINDS",
    "CalibrationAction",
    "CalibrationPolicy",
    "Component",
    "ConversionArtifact",
    "ConversionContext",
    "ConversionError",
    "ConversionImplementationError",
    "ConversionInputError",
    "ConversionOutput",
    "Dataset",
    "DatasetContext",
    "DatasetError",
    "DatasetRef",
    "DatasetWriter",
    "DestinationRepo",
    "FileLayout",
    "IncrementalSafetensorsWriter",
    "IngestResult",
    "Limits",
    "LoadedComponent",
    "OutputSpaceError",
    "OutputSpec",
    "ProducedFlavor",
    "Provenance",
    "QualityGate",
    "Source",
    "SourceRepo",
    "StreamingWriter",
    "TrainingFunctionSpec",
    "ValidationReport",
    "ValidationViolation",
    "VerificationError",
    "VerificationReport",
    "build_safetensors_index",
    "cast_checkpoint",
    "copy_unconverted_components",
    "format_report",
    "list_shard_files_from_index",
    "lookup_policy",
    "materialize_safetensors_input",
    "open_checkpoint",
    "persist_safetensors_output",
    "plan_safetensors_shards",
    "resolve_calibration_action",
    "shard_safetensors_by_offset",
    "streaming_dtype_cast",
    "streaming_gpu_quantize",
    "tensors_with",
    "training_function",
    "validate_policy_map",
    "validate_transform_module",
    "verify_output",
    "write_proof",
    "write_safetensors",
]

# Loaded at first use: an endpoint with one decorator pays for no more than that.
_MODULES = {
    "gen_worker.context": (
        "ConversionContext",
        "DatasetContext",
    ),
    "gen_worker.conversion.artifacts": (
        "ConversionArtifact",
        "ConversionOutput",
        "IngestResult",
        "persist_safetensors_output",
        "tensors_with",
    ),
    "gen_worker.conversion.calibration": (
        "CalibrationAction",
        "CalibrationPolicy",
        "lookup_policy",
        "resolve_calibration_action",
        "validate_policy_map",
    ),
    "gen_worker.conversion.cast": ("cast_checkpoint",),
    "gen_worker.conversion.components": ("LoadedComponent",),
    "gen_worker.conversion.dataset": (
        "Dataset",
        "DatasetError",
        "DatasetWriter",
    ),
    "gen_worker.conversion.errors": (
        "ConversionError",
        "ConversionImplementationError",
        "ConversionInputError",
        "OutputSpaceError",
    ),
    "gen_worker.conversion.lazy": ("open_checkpoint",),
    "gen_worker.conversion.output_writer": (
        "StreamingWriter",
        "copy_unconverted_components",
    ),
    "gen_worker.conversion.provenance": (
        "Provenance",
        "write_proof",
    ),
    "gen_worker.conversion.source": (
        "Component",
        "FileLayout",
        "Source",
    ),
    "gen_worker.conversion.streaming": (
        "list_shard_files_from_index",
        "materialize_safetensors_input",
        "shard_safetensors_by_offset",
        "streaming_dtype_cast",
        "streaming_gpu_quantize",
    ),
    "gen_worker.conversion.validation": (
        "ValidationReport",
        "ValidationViolation",
        "format_report",
        "validate_transform_module",
    ),
    "gen_worker.conversion.verify": (
        "Limits",
        "QualityGate",
        "VerificationError",
        "VerificationReport",
        "verify_output",
    ),
    "gen_worker.conversion.writer": (
        "MAX_SAFETENSORS_SHARD_BYTES",
        "IncrementalSafetensorsWriter",
        "build_safetensors_index",
        "plan_safetensors_shards",
        "write_safetensors",
    ),
    "gen_worker.endpoint.job_record": ("TrainingFunctionSpec",),
    "gen_worker.endpoint.jobs": (
        "DEFAULT_KIND",
        "RECOMMENDED_KINDS",
        "training_function",
    ),
    "gen_worker.types": (
        "DatasetRef",
        "DestinationRepo",
        "OutputSpec",
        "ProducedFlavor",
        "SourceRepo",
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


class _DecoratorModule(ModuleType):
    """Importing this package rebinds `gen_worker.conversion`, so it must work as the decorator."""

    # The bound method itself: one more frame would hide the line where the decorator stands.
    __call__ = _decorator.__call__
    function = _decorator.function
    stage = _decorator.stage


sys.modules[__name__].__class__ = _DecoratorModule


def _load(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


if not TYPE_CHECKING:  # a type checker would take any name for granted
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
