"""Integers packed into int32, as compressed-tensors packs them.

Legend: R rows and C columns of a weight, G groups of a row, W words of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.lazy.arithmetic import computed
from gen_worker.conversion.lazy.dtypes import torch_dtype
from gen_worker.conversion.quantize.parts import Encoded, Scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor

__all__ = ["PackedIntegers", "pack_columns", "unpack_columns"]

_SMALLEST_SCALE = 2.0**-23


class _Grid(NamedTuple):
    """Scales and zero points of groups, float32 `(R, G, 1)`."""

    scale_RG1: Any
    zero_RG1: Any


class PackedIntegers(Scheme):
    """Parts `packed` int32, `scale` `(R, G)` and `shape`, asymmetric ones also `zero_point`.

    Values are `(integer - zero point) * scale`; zero points are packed along R.
    """

    def __init__(self, bits: int, group_size: int, scale_dtype: str, *, symmetric: bool) -> None:
        """Take the format.

        Args:
            bits: 4 or 8.
            group_size: Elements of a row with one scale; 0 for all of a row.
            scale_dtype: What scales are rounded to before they are used.
            symmetric: Without zero points.
        """
        self.bits = bits
        self.group_size = group_size
        self.scale_dtype = scale_dtype
        self.symmetric = symmetric
        self.per_word = 32 // bits
        self.low, self.high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1

    def misfit(self, tensor: LazyTensor) -> str:
        rows, columns = tensor.shape
        if self.group_size and columns % self.group_size:
            return f"rows of {columns} do not divide by groups of {self.group_size}"
        if columns % self.per_word:
            return f"rows of {columns} do not divide by the {self.per_word} integers of a word"
        if not self.symmetric and rows % self.per_word:
            return f"{rows} rows do not divide by the {self.per_word} zero points of a word"
        return ""

    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        rows, columns = tensor.shape
        groups = columns // (self.group_size or columns)

        def packed(values_RC: Any, _: int) -> Any:
            return pack_columns(self._integers(values_RC), self.bits)

        def zeros(values_RC: Any, _: int) -> Any:
            zero_RG = self._grid(values_RC).zero_RG1.squeeze(-1)
            return pack_columns(zero_RG.T, self.bits).T

        parts: dict[str, LazyTensor] = {
            "packed": Encoded(
                tensor, packed, shape=(rows, columns // self.per_word), dtype="I32", counts=True
            ),
            "scale": Encoded(
                tensor,
                lambda values, _: self._grid(values).scale_RG1.squeeze(-1).to(self._scale_type()),
                shape=(rows, groups),
                dtype=self.scale_dtype,
            ),
            "shape": computed(
                lambda start, stop: _shape(tensor)[start:stop], shape=(2,), dtype="I64", of=()
            ),
        }
        if not self.symmetric:
            shape = (rows // self.per_word, groups)
            parts["zero_point"] = Encoded(
                tensor, zeros, shape=shape, dtype="I32", unit=self.per_word
            )
        return parts

    def decode(self, parts: Checkpoint, shape: Sequence[int]) -> LazyTensor:
        packed, scale = parts["packed"], parts["scale"]
        zero = parts.get("zero_point")

        def values(start: int, stop: int) -> Any:
            integers = unpack_columns(packed.rows(start, stop), self.bits).float()
            grouped = integers.unflatten(1, (scale.shape[1], -1))
            if zero is not None:
                first = start // self.per_word
                words = zero.rows(first, -(-stop // self.per_word))
                unpacked = unpack_columns(words.T, self.bits).T
                offset = start - first * self.per_word
                grouped = grouped - unpacked[offset : offset + stop - start, :, None].float()
            return (grouped * scale.rows(start, stop).float()[..., None]).flatten(1)

        cost = packed.row_cost_bytes + 16 * shape[1]
        return computed(
            values, shape=shape, dtype="F32", of=tuple(parts.values()), row_cost_bytes=cost
        )

    def _integers(self, values_RC: Any) -> Any:
        grid = self._grid(values_RC)
        values_RGS = values_RC.unflatten(1, (grid.scale_RG1.shape[1], -1))
        integers = (values_RGS / grid.scale_RG1).add_(grid.zero_RG1)
        return integers.clamp_(self.low, self.high).round_().flatten(1)

    def _grid(self, values_RC: Any) -> _Grid:
        groups = values_RC.unflatten(1, (-1, self.group_size or values_RC.shape[1]))
        low = groups.amin(dim=2, keepdim=True).clamp_(max=0.0)
        high = groups.amax(dim=2, keepdim=True).clamp_(min=0.0)
        steps = self.high - self.low
        if self.symmetric:
            scale = self._usable(high.maximum(-low) / (steps / 2))
            return _Grid(scale, scale.new_zeros(()))
        scale = self._usable((high - low) / steps)
        zero = (self.low - low / scale).clamp_(self.low, self.high).round_()
        return _Grid(scale, zero)

    def _usable(self, scale: Any) -> Any:
        """Return scales as they are stored, and none that is zero."""
        stored = scale.to(self._scale_type()).float()
        return stored.masked_fill_(stored == 0, _SMALLEST_SCALE)

    def _scale_type(self) -> Any:
        return torch_dtype(self.scale_dtype)


def pack_columns(integers_RC: Any, bits: int) -> Any:
    """Return int32 `(R, C * bits / 32)`; the first integer of a word is in its lowest bits."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    raised = (integers_RC + 2 ** (bits - 1)).to(torch.uint8).contiguous()
    if bits == 4:
        raised = raised[:, 0::2] | (raised[:, 1::2] << 4)
    return raised.flatten().view(torch.int32).reshape(len(raised), -1)


def unpack_columns(words_RW: Any, bits: int) -> Any:
    """Undo `pack_columns`; returns int16."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    raised = words_RW.flatten().view(torch.uint8).reshape(len(words_RW), -1)
    if bits == 4:
        raised = torch.stack((raised & 15, raised >> 4), dim=2).flatten(1)
    return raised.to(torch.int16) - 2 ** (bits - 1)


def _shape(tensor: LazyTensor) -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return torch.tensor(tensor.shape, dtype=torch.int64)
