"""Bytes with scales: float8 and int8, the scale shared by a row, a tensor or a block.

Legend: R rows and C columns of a weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.lazy.arithmetic import computed
from gen_worker.conversion.lazy.dtypes import torch_dtype
from gen_worker.conversion.lazy.tensor import slabs
from gen_worker.conversion.quantize.parts import Encoded, Once, Scheme, largest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor

__all__ = ["BLOCK", "E4M3", "E5M2", "INT8", "Element", "Scaled", "Stored", "rounded"]

BLOCK = 128
"""Rows and columns of a block with one scale, as DeepSeek-V3 and its readers have it."""
_SMALLEST_SCALE = 2.0**-23
"""float32's epsilon, where all is zero; as compressed-tensors."""


class Element(NamedTuple):
    """A byte: its dtype, and what the largest magnitude of a scale's range becomes."""

    dtype: str
    low: float
    high: float
    full: float


E4M3 = Element("F8_E4M3", -448.0, 448.0, 448.0)
E5M2 = Element("F8_E5M2", -57344.0, 57344.0, 57344.0)
INT8 = Element("I8", -128.0, 127.0, 127.5)
"""As compressed-tensors and torchao have it."""


class Scaled(Scheme):
    """Parts `weight` and `scale`; values are their product.

    `scale` has shape `(R, 1)` by row, `(1,)` by tensor, `(R/128, C/128)` rounded up by block.
    """

    def __init__(self, element: Element, granularity: str, *, divisor: int = 1) -> None:
        """Take the format.

        Args:
            element: What a value becomes.
            granularity: `row`, `tensor` or `block`.
            divisor: Of the number of columns, where activations are quantized by groups.
        """
        self.element = element
        self.granularity = granularity
        self.divisor = divisor

    def misfit(self, tensor: LazyTensor) -> str:
        columns = tensor.shape[1]
        if columns % self.divisor:
            return f"rows of {columns} do not divide by groups of {self.divisor} activations"
        return ""

    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        scale = self._scale(tensor)

        def weight(values_RC: Any, start: int) -> Any:
            if self.granularity == "row":
                scale_RC = self._row_scales(values_RC)
            else:
                scale_RC = self._spread(scale, start, start + len(values_RC), values_RC.shape[1])
            return rounded(values_RC / scale_RC, self.element)

        made = Encoded(tensor, weight, shape=tensor.shape, dtype=self.element.dtype, counts=True)
        return {"weight": made, "scale": scale}

    def decode(self, parts: Checkpoint, shape: Sequence[int]) -> LazyTensor:
        weight, scale = parts["weight"], parts["scale"]

        def values(start: int, stop: int) -> Any:
            spread = self._spread(scale, start, stop, shape[1])
            return weight.rows(start, stop).float().mul_(spread)

        cost = weight.row_cost_bytes + 12 * shape[1]
        return computed(values, shape=shape, dtype="F32", of=(weight, scale), row_cost_bytes=cost)

    def _scale(self, tensor: LazyTensor) -> LazyTensor:
        rows, columns = tensor.shape
        if self.granularity == "row":
            return Encoded(
                tensor, lambda values, _: self._row_scales(values), shape=(rows, 1), dtype="F32"
            )
        if self.granularity == "tensor":
            return Once(lambda: self._of_tensor(tensor), shape=(1,), dtype="F32", of=tensor)
        shape = (-(-rows // BLOCK), -(-columns // BLOCK))
        blocks = Encoded(
            tensor,
            lambda values, _: self._block_scales(values),
            shape=shape,
            dtype="F32",
            unit=BLOCK,
        )
        return Once(lambda: _in_slabs(blocks), shape=shape, dtype="F32", of=tensor)

    def _spread(self, scale: LazyTensor, start: int, stop: int, columns: int) -> Any:
        """Return scales that multiply rows `start` to `stop`."""
        if self.granularity == "tensor":
            return scale.tensor().float()
        if self.granularity == "row":
            return scale.rows(start, stop).float()
        first = start // BLOCK
        blocks = scale.rows(first, -(-stop // BLOCK)).float()
        rows = blocks.repeat_interleave(BLOCK, 0)[start - first * BLOCK : stop - first * BLOCK]
        return rows.repeat_interleave(BLOCK, 1)[:, :columns]

    def _row_scales(self, values_RC: Any) -> Any:
        return self._scales(values_RC.abs().amax(dim=1, keepdim=True))

    def _block_scales(self, values_RC: Any) -> Any:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        # Row by row first: what is left to pad is small, however wide and many the rows are.
        columns_C = values_RC.shape[1]
        magnitudes: Any = torch.nn.functional.pad(values_RC.abs(), (0, -columns_C % BLOCK))
        by_row = magnitudes.unflatten(1, (-1, BLOCK)).amax(dim=2)
        padded: Any = torch.nn.functional.pad(by_row, (0, 0, 0, -len(by_row) % BLOCK))
        return self._scales(padded.unflatten(0, (-1, BLOCK)).amax(dim=1))

    def _of_tensor(self, tensor: LazyTensor) -> Any:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        return self._scales(torch.tensor([largest(tensor)], dtype=torch.float32))

    def _scales(self, largest_: Any) -> Any:
        scales = largest_ / self.element.full
        return scales.masked_fill_(scales == 0, _SMALLEST_SCALE)


class Stored(Scheme):
    """Part `weight` alone, its values clamped to what the format holds."""

    def __init__(self, element: Element) -> None:
        self.element = element

    def misfit(self, tensor: LazyTensor) -> str:
        return ""

    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        made = Encoded(
            tensor,
            lambda values, _: rounded(values, self.element),
            shape=tensor.shape,
            dtype=self.element.dtype,
            counts=True,
        )
        return {"weight": made}

    def decode(self, parts: Checkpoint, shape: Sequence[int]) -> LazyTensor:
        weight = parts["weight"]

        def values(start: int, stop: int) -> Any:
            return weight.rows(start, stop).float()

        return computed(values, shape=shape, dtype="F32", of=(weight,))


def rounded(values: Any, element: Element) -> Any:
    """Clamp and round to nearest even."""
    clamped = values.clamp(element.low, element.high)
    if element.dtype == "I8":
        clamped = clamped.round_()
    return clamped.to(torch_dtype(element.dtype))


def _in_slabs(tensor: LazyTensor) -> Any:
    """Return a whole tensor that is small, made slab by slab of a large one."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    made = torch.empty(tensor.shape)
    for start, stop in slabs(tensor):
        made[start:stop] = tensor.rows(start, stop)
    return made
