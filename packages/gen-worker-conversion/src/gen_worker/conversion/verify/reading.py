"""How the files of a quantized output are read back as the tensors they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.lazy.tensor import Checkpoint
    from gen_worker.conversion.quantize import QuantizedCheckpoint
    from gen_worker.conversion.verify.verifying import ReadBack

__all__ = ["read_quantized"]


def read_quantized(quantized: Mapping[str, QuantizedCheckpoint]) -> ReadBack:
    """Return the `read_back` of an output whose components were quantized.

    Args:
        quantized: By component; others are read as they are stored.
    """

    def read(component: str, written: Checkpoint) -> Checkpoint:
        known = quantized.get(component)
        if known is None:
            return written
        parts = {part for weight in known.weights.values() for part in weight.names.values()}
        plain = {name: tensor for name, tensor in written.items() if name not in parts}
        return plain | {name: known.dequantized(name, written) for name in known.weights}

    return read
