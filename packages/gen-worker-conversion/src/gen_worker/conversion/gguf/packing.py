"""Tensors as the blocks of a GGUF type: recipes like any other, whose rows are bytes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.container import TensorEntry, packed_bytes
from gen_worker.conversion.gguf.importance import Importance, importance_of
from gen_worker.conversion.gguf.iq4_quants import IQ4_QUANTS
from gen_worker.conversion.gguf.k_quants import K_QUANTS
from gen_worker.conversion.gguf.simple_quants import SIMPLE_QUANTS
from gen_worker.conversion.lazy import Extent, LazyTensor, cast, narrow, reshape
from gen_worker.conversion.writer.nonfinite import CountedTensor, NonFinite, count_nonfinite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PLAIN", "QUANTS", "PackedTensor", "packed"]

QUANTS = {**SIMPLE_QUANTS, **K_QUANTS, **IQ4_QUANTS}
"""What can be written, as functions of rows."""
PLAIN = frozenset({"F32", "F16", "BF16"})
"""Types that are numbers."""
_ROW = 256
"""Of a tensor that can be cut anywhere: a multiple of every block, so that slabs may be small."""


def packed(
    tensor: LazyTensor, type_name: str, *, name: str = "", importance: Importance | None = None
) -> LazyTensor:
    """Return a tensor as the bytes that a GGUF file holds of it.

    Args:
        tensor: Of floats.
        type_name: One of `PLAIN`, or a key of `QUANTS`; the rows must be whole blocks of it.
        name: Of the tensor in `importance`.
        importance: Of columns, where there is any; by default all columns count.

    Raises:
        ConversionInputError: There is no such type here, or the importance is of another model.
    """
    if type_name in PLAIN:
        return cast(tensor, type_name)
    quantize = QUANTS.get(type_name)
    if quantize is None:
        raise ConversionInputError(
            f"tensors cannot be written as {type_name!r}: known are "
            f"{', '.join(sorted((*PLAIN, *QUANTS)))}"
        )
    weights = importance_of(importance, name, tensor.shape)
    if importance is None or weights is None:
        return PackedTensor(tensor, type_name, quantize)
    if weights.dim() == 1:
        weighted = partial(quantize, importance=weights)
        return PackedTensor(tensor, type_name, weighted, importance.source)
    rows = reshape(tensor, (-1, tensor.shape[-1]))
    each = tensor.elements // tensor.shape[-1] // len(weights)
    parts = [
        PackedTensor(
            narrow(rows, 0, number * each, each),
            type_name,
            partial(quantize, importance=weights[number]),
            importance.source,
        )
        for number in range(len(weights))
    ]
    return _PackedExperts(tensor, type_name, parts)


class PackedTensor(CountedTensor):
    """Blocks; (rows, bytes of a row), where a row may be a part of one of the tensor."""

    def __init__(
        self,
        tensor: LazyTensor,
        type_name: str,
        quantize: Callable[[Any], Any],
        extra: Extent | None = None,
    ) -> None:
        """Describe it.

        Args:
            tensor: What is packed.
            type_name: Of its blocks.
            quantize: Makes rows of bytes of rows of float32.
            extra: What else decides about the bytes; the rows are then those of the tensor.
        """
        inner = cast(tensor, "F32")
        columns = tensor.shape[-1] if tensor.shape else 1
        self.extra = extra
        if extra is None and inner.is_elementwise and columns % _ROW == 0:
            columns = _ROW
        self.inner = reshape(inner, (-1, columns))
        super().__init__((self.inner.shape[0], packed_bytes(type_name, columns)), "U8")
        self.entry = TensorEntry(type_name, tensor.shape or (1,))
        self.is_whole = self.inner.is_whole
        self._quantize = quantize

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.inner,)

    @property
    def sources(self) -> tuple[Extent, ...]:
        return super().sources + (() if self.extra is None else (self.extra,))

    def rows(self, start: int, stop: int) -> Any:
        return self._quantize(self.inner.rows(start, stop))

    def counted_rows(self, start: int, stop: int) -> tuple[Any, NonFinite]:
        values = self.inner.rows(start, stop)
        return self._quantize(values), count_nonfinite(values, "F32")


class _PackedExperts(PackedTensor):
    """Blocks of a tensor of experts, each of which has columns of its own that matter."""

    def __init__(self, tensor: LazyTensor, type_name: str, parts: Sequence[PackedTensor]) -> None:
        super().__init__(tensor, type_name, QUANTS[type_name], parts[0].extra)
        self.parts = parts

    def rows(self, start: int, stop: int) -> Any:
        return self.counted_rows(start, stop)[0]

    def counted_rows(self, start: int, stop: int) -> tuple[Any, NonFinite]:
        import torch  # type: ignore[import-not-found,unused-ignore]

        each = self.parts[0].row_count
        counts, pieces = NonFinite(0, 0), []
        for number in range(start // each, -(-stop // each)):
            first, last = max(start - number * each, 0), min(stop - number * each, each)
            made, bad = self.parts[number].counted_rows(first, last)
            pieces.append(made)
            counts += bad
        return torch.cat(pieces), counts
