"""Proof that an output is right: it loads, has the source's tensors, and is as close as it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.verify.gate import QualityGate
    from gen_worker.conversion.verify.reading import read_quantized
    from gen_worker.conversion.verify.usual_outputs import usual_gate
    from gen_worker.conversion.verify.values import (
        Difference,
        Limits,
        TensorReport,
        VerificationError,
        VerificationReport,
    )
    from gen_worker.conversion.verify.verifying import verify_output

__all__ = [
    "Difference",
    "Limits",
    "QualityGate",
    "TensorReport",
    "VerificationError",
    "VerificationReport",
    "read_quantized",
    "usual_gate",
    "verify_output",
]

_MODULES = {
    "gate": ("QualityGate",),
    "reading": ("read_quantized",),
    "usual_outputs": ("usual_gate",),
    "values": (
        "Difference",
        "Limits",
        "TensorReport",
        "VerificationError",
        "VerificationReport",
    ),
    "verifying": ("verify_output",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
