"""Tensors as the blocks of a GGUF type: recipes like any other, whose rows are bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.container import TensorEntry, packed_bytes
from gen_worker.conversion.gguf.k_quants import K_QUANTS
from gen_worker.conversion.gguf.simple_quants import SIMPLE_QUANTS
from gen_worker.conversion.lazy import LazyTensor, cast, reshape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PLAIN", "QUANTS", "PackedTensor", "packed"]

QUANTS = {**SIMPLE_QUANTS, **K_QUANTS}
"""What can be written, as functions of rows."""
PLAIN = frozenset({"F32", "F16", "BF16"})
"""Types that are numbers."""


def packed(tensor: LazyTensor, type_name: str) -> LazyTensor:
    """Return a tensor as the bytes that a GGUF file holds of it.

    Args:
        tensor: Of floats.
        type_name: One of `PLAIN`, or a key of `QUANTS`; the rows must be whole blocks of it.

    Raises:
        ConversionInputError: There is no such type here.
    """
    if type_name in PLAIN:
        return cast(tensor, type_name)
    quantize = QUANTS.get(type_name)
    if quantize is None:
        raise ConversionInputError(
            f"tensors cannot be written as {type_name!r}: known are "
            f"{', '.join(sorted((*PLAIN, *QUANTS)))}"
        )
    return PackedTensor(tensor, type_name, quantize)


class PackedTensor(LazyTensor):
    """Blocks; (rows, bytes of a row)."""

    def __init__(self, tensor: LazyTensor, type_name: str, quantize: Callable[[Any], Any]) -> None:
        columns = tensor.shape[-1] if tensor.shape else 1
        self.inner = reshape(cast(tensor, "F32"), (-1, columns))
        super().__init__((self.inner.shape[0], packed_bytes(type_name, columns)), "U8")
        self.entry = TensorEntry(type_name, tensor.shape)
        self.is_whole = self.inner.is_whole
        self._quantize = quantize

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return (self.inner,)

    def rows(self, start: int, stop: int) -> Any:
        return self._quantize(self.inner.rows(start, stop))
