"""How far quantized weights are from their source, measured slab by slab."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from gen_worker.conversion.lazy.tensor import slabs
from gen_worker.conversion.quantize.parts import finite_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor
    from gen_worker.conversion.quantize.checkpoint import QuantizedCheckpoint

__all__ = ["WeightError", "measure_errors", "weight_error"]


class WeightError(msgspec.Struct, frozen=True, kw_only=True):
    """The distance of one weight from its source, over elements that are finite numbers."""

    max_error: float
    mean_error: float
    """Of magnitudes."""
    snr_db: float
    """Energy of the source over that of the error; infinite where they are equal."""


def weight_error(source: LazyTensor, values: LazyTensor) -> WeightError:
    """Compare two tensors of one shape; blocks.

    Args:
        source: What it was.
        values: What a loader makes of it now, in float32.
    """
    largest = total = energy = noise = 0.0
    for start, stop in slabs(values):
        wanted, _ = finite_rows(source, start, stop)
        error = (values.rows(start, stop) - wanted).double()
        largest = max(largest, float(error.abs().max()))
        total += float(error.abs().sum())
        energy += float(wanted.double().square().sum())
        noise += float(error.square().sum())
    return WeightError(
        max_error=largest,
        mean_error=total / max(source.elements, 1),
        snr_db=10 * math.log10(energy / noise) if noise and energy else math.inf,
    )


def measure_errors(
    quantized: QuantizedCheckpoint,
    *,
    written: Checkpoint | None = None,
    names: Iterable[str] | None = None,
) -> Iterator[tuple[str, WeightError]]:
    """Yield the error of each quantized weight by its name in the source; blocks between them.

    Args:
        quantized: What was planned.
        written: What was written, opened again: then this is what is measured.
        names: Some of `report.quantized`; all by default.
    """
    for name in quantized.report.quantized if names is None else names:
        values = quantized.dequantized(name, written)
        yield name, weight_error(quantized.weights[name].source, values)
