"""DoRA: an update of low rank whose rows get a length of their own.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024, equation 5; a length for each
output, as peft has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lazy import cast, computed, low_rank
from gen_worker.conversion.lazy.dtypes import torch_dtype

if TYPE_CHECKING:
    from gen_worker.conversion.lazy import LazyTensor
    from gen_worker.conversion.lora.adapter import LowRank

__all__ = ["merged_dora"]


def merged_dora(tensor: LazyTensor, layer: LowRank, strength: float) -> LazyTensor:
    """Return `tensor + strength * (made - tensor)`, in the tensor's dtype.

    `made` is `tensor + alpha / rank * up @ down` with each row stretched to its magnitude.

    Args:
        tensor: Weights of a linear layer or a convolution.
        layer: Has magnitudes.
        strength: 1 gives the model with the adapter.

    Raises:
        ConversionInputError: The shapes do not fit.
    """
    updated = low_rank(cast(tensor, "F32"), layer.up, layer.down, layer.scale)
    magnitude = layer.magnitude
    assert magnitude is not None, "of a DoRA"

    def rows(start: int, stop: int) -> Any:
        base, made = tensor.rows(start, stop).float(), updated.rows(start, stop)
        lengths = made.reshape(stop - start, -1).norm(dim=1).clamp_(min=1e-30)
        factors = magnitude.rows(start, stop).float().div_(lengths)
        made.mul_(factors.reshape(-1, *[1] * (made.dim() - 1)))
        return base.lerp_(made, strength).to(torch_dtype(tensor.dtype))

    return computed(
        rows,
        shape=tensor.shape,
        dtype=tensor.dtype,
        of=(tensor, layer.up, layer.down, magnitude),
        row_cost_bytes=updated.row_cost_bytes + tensor.row_cost_bytes + 12 * tensor.row_elements,
        is_whole=tensor.is_whole,
    )
