"""LLM.int8 as bitsandbytes has it: bytes and the absolute maximum of each row.

Legend: R rows and C columns of a weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lazy.arithmetic import computed
from gen_worker.conversion.quantize.parts import Encoded, Scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor

__all__ = ["RowMaxima"]


class RowMaxima(Scheme):
    """Parts `weight`, `scale` (R,) and `format`, which says that rows are rows."""

    def misfit(self, tensor: LazyTensor) -> str:
        return ""

    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        rows = tensor.row_count
        return {
            "weight": Encoded(
                tensor,
                lambda values, _: _codes(values),
                shape=tensor.shape,
                dtype="I8",
                counts=True,
            ),
            "scale": Encoded(
                tensor, lambda values, _: values.abs().amax(dim=1), shape=(rows,), dtype="F32"
            ),
            "format": computed(
                lambda _start, _stop: _row_format(), shape=(), dtype="U8", of=(), row_cost_bytes=8
            ),
        }

    def decode(self, parts: Checkpoint, shape: Sequence[int]) -> LazyTensor:
        weight, scale = parts["weight"], parts["scale"]

        def values(start: int, stop: int) -> Any:
            steps = scale.rows(start, stop)[:, None] / 127.0
            return weight.rows(start, stop).float().mul_(steps)

        cost = weight.row_cost_bytes + 8 * shape[1]
        return computed(values, shape=shape, dtype="F32", of=(weight, scale), row_cost_bytes=cost)


def _codes(values_RC: Any) -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    maxima = values_RC.abs().amax(dim=1, keepdim=True)
    return (values_RC * (127.0 / maxima)).nan_to_num_(nan=0.0).round_().to(torch.int8)


def _row_format() -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return torch.tensor(0, dtype=torch.uint8)
