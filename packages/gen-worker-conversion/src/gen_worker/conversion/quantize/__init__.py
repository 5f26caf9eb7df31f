"""Weights with fewer bits: methods by name, done slab by slab, written in others' layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.quantize.calibrating import calibrate_checkpoint
    from gen_worker.conversion.quantize.calibration_text import CalibrationData, calibration_data
    from gen_worker.conversion.quantize.checkpoint import (
        QuantizationReport,
        QuantizedCheckpoint,
        quantize_checkpoint,
    )
    from gen_worker.conversion.quantize.methods import (
        METHODS,
        OTHERS_METHODS,
        Method,
        MethodElsewhere,
        lookup_method,
    )
    from gen_worker.conversion.quantize.options import QuantizeOptions
    from gen_worker.conversion.quantize.policy import Policy
    from gen_worker.conversion.quantize.recipes import RECIPES, Recipe, recipe_for

__all__ = [
    "METHODS",
    "OTHERS_METHODS",
    "RECIPES",
    "CalibrationData",
    "Method",
    "MethodElsewhere",
    "Policy",
    "QuantizationReport",
    "QuantizeOptions",
    "QuantizedCheckpoint",
    "Recipe",
    "calibrate_checkpoint",
    "calibration_data",
    "lookup_method",
    "quantize_checkpoint",
    "recipe_for",
]

_MODULES = {
    "calibrating": ("calibrate_checkpoint",),
    "calibration_text": ("CalibrationData", "calibration_data"),
    "checkpoint": ("QuantizationReport", "QuantizedCheckpoint", "quantize_checkpoint"),
    "methods": ("METHODS", "OTHERS_METHODS", "Method", "MethodElsewhere", "lookup_method"),
    "options": ("QuantizeOptions",),
    "policy": ("Policy",),
    "recipes": ("RECIPES", "Recipe", "recipe_for"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
