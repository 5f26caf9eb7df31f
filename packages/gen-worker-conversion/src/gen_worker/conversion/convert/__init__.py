"""Conversions of whole models: planned from headers first, then carried out and resumable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.convert.gguf_facts import GgufFacts
    from gen_worker.conversion.convert.inspecting import (
        ComponentFacts,
        ModelFacts,
        inspect_model,
    )
    from gen_worker.conversion.convert.jobs import produce_flavors
    from gen_worker.conversion.convert.planning import plan_conversion
    from gen_worker.conversion.convert.proof import (
        ProvenFlavor,
        gate_of,
        prove_outputs,
        relation_of,
    )
    from gen_worker.conversion.convert.proving import verify_flavor
    from gen_worker.conversion.convert.running import RefusedPlanError, run_conversion
    from gen_worker.conversion.convert.staging import discard_outputs
    from gen_worker.conversion.convert.values import (
        ComponentPlan,
        ConversionPlan,
        ConversionRequest,
        ConversionResult,
        ConvertedFile,
        FlavorPlan,
        GgufOptions,
        Kept,
        MergedLora,
        ModelMerge,
        Progress,
        Refusal,
    )

__all__ = [
    "ComponentFacts",
    "ComponentPlan",
    "ConversionPlan",
    "ConversionRequest",
    "ConversionResult",
    "ConvertedFile",
    "FlavorPlan",
    "GgufFacts",
    "GgufOptions",
    "Kept",
    "MergedLora",
    "ModelFacts",
    "ModelMerge",
    "Progress",
    "ProvenFlavor",
    "Refusal",
    "RefusedPlanError",
    "discard_outputs",
    "gate_of",
    "inspect_model",
    "plan_conversion",
    "produce_flavors",
    "prove_outputs",
    "relation_of",
    "run_conversion",
    "verify_flavor",
]

_MODULES = {
    "gguf_facts": ("GgufFacts",),
    "inspecting": ("ComponentFacts", "ModelFacts", "inspect_model"),
    "jobs": ("produce_flavors",),
    "planning": ("plan_conversion",),
    "proof": ("ProvenFlavor", "gate_of", "prove_outputs", "relation_of"),
    "proving": ("verify_flavor",),
    "running": ("RefusedPlanError", "run_conversion"),
    "staging": ("discard_outputs",),
    "values": (
        "ComponentPlan",
        "ConversionPlan",
        "ConversionRequest",
        "ConversionResult",
        "ConvertedFile",
        "FlavorPlan",
        "GgufOptions",
        "Kept",
        "MergedLora",
        "ModelMerge",
        "Progress",
        "Refusal",
    ),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
