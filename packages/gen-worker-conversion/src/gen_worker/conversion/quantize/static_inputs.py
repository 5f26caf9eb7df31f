"""Scaled bytes whose layers round what goes into them by a scale that calibration has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.quantize.fitted import Awaited, FittedScheme
from gen_worker.conversion.quantize.scaled import Scaled

if TYPE_CHECKING:
    from gen_worker.conversion.lazy.tensor import LazyTensor
    from gen_worker.conversion.quantize.fitted import LayerInputs

__all__ = ["StaticInputs"]


class StaticInputs(Scaled, FittedScheme):
    """Parts as of `Scaled`, and `input_scale` (1,): values of the input are its multiples."""

    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        return {**super().encode(tensor), "input_scale": Awaited(tensor, shape=(1,), dtype="F32")}

    def fit(self, weight: LazyTensor, inputs: LayerInputs) -> dict[str, Any]:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        return {"input_scale": self._scales(torch.tensor([inputs.largest], dtype=torch.float32))}
