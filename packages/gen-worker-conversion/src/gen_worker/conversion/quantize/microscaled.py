"""MXFP8, MXFP4 and NVFP4 with the block scales that make them what they are.

Formats: OCP Microscaling Formats 1.0 (blocks of 32, a power of two each, E8M0) and NVFP4 (blocks
of 16, an E4M3 scale each, a float32 scale per tensor). Legend: R rows and C columns of a weight, G
blocks of a row, S elements of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lazy.arithmetic import computed
from gen_worker.conversion.quantize.parts import Encoded, Once, Scheme, largest
from gen_worker.conversion.quantize.scaled import E4M3, rounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor

__all__ = ["Microscaled", "NvFp4", "pack_e2m1", "unpack_e2m1"]

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_TIES_UP = (0.75, 1.75, 3.5)
_TIES_DOWN = (0.25, 1.25, 2.5, 5.0)
"""Between neighbours; a tie goes to the one whose last bit is zero."""
_BIAS = 127
_TINY = 2.0**-126


class Microscaled(Scheme):
    """Parts `weight` (e4m3) or `packed` (e2m1), and `scale`, exponents with a bias of 127."""

    BLOCK = 32

    def __init__(self, bits: int) -> None:
        self.bits = bits
        # floor(log2) of the largest element, 448 or 6: what the largest of a block becomes.
        self.exponent = 8 if bits == 8 else 2

    def misfit(self, tensor: LazyTensor) -> str:
        return _misfit(tensor, self.BLOCK)

    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        rows, columns = tensor.shape

        def weight(values_RC: Any, _: int) -> Any:
            values_RGS = values_RC.unflatten(1, (-1, self.BLOCK))
            scaled = (values_RGS / _power(self._exponents(values_RC))[..., None]).flatten(1)
            return rounded(scaled, E4M3) if self.bits == 8 else pack_e2m1(scaled)

        name, dtype = ("weight", "F8_E4M3") if self.bits == 8 else ("packed", "U8")
        shape = (rows, columns * self.bits // 8)
        return {
            name: Encoded(tensor, weight, shape=shape, dtype=dtype, counts=True),
            "scale": Encoded(
                tensor,
                lambda values, _: self._exponents(values),
                shape=(rows, columns // self.BLOCK),
                dtype="U8",
            ),
        }

    def decode(self, parts: Checkpoint, shape: Sequence[int]) -> LazyTensor:
        weight, scale = parts["weight" if self.bits == 8 else "packed"], parts["scale"]

        def values(start: int, stop: int) -> Any:
            stored = weight.rows(start, stop)
            elements = stored.float() if self.bits == 8 else unpack_e2m1(stored)
            return _times(elements, _power(scale.rows(start, stop)))

        return _decoded(values, shape, weight, scale)

    def _exponents(self, values_RC: Any) -> Any:
        """Return uint8 `(R, G)`; a largest that rounds up to the next power counts as that."""
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        largest_RG = values_RC.abs().unflatten(1, (-1, self.BLOCK)).amax(dim=2).clamp_(min=_TINY)
        # Half of the last of E2M1's mantissa bits, added in the bits, carries to the exponent.
        bits = largest_RG.view(torch.int32) + (1 << 21)
        return ((bits >> 23) - self.exponent).clamp_(0, 254).to(torch.uint8)


class NvFp4(Scheme):
    """Parts `packed`, `scale` e4m3 `(R, G)` and `global_scale` `(1,)`, which divides."""

    BLOCK = 16

    def misfit(self, tensor: LazyTensor) -> str:
        return _misfit(tensor, self.BLOCK)

    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        rows, columns = tensor.shape
        whole = Once(lambda: _global_scale(tensor), shape=(1,), dtype="F32", of=tensor)

        def packed(values_RC: Any, _: int) -> Any:
            scale_RG = _e4m3_scales(values_RC, whole.tensor()).float() / whole.tensor()
            return pack_e2m1((values_RC.unflatten(1, (-1, 16)) / scale_RG[..., None]).flatten(1))

        return {
            "packed": Encoded(tensor, packed, shape=(rows, columns // 2), dtype="U8", counts=True),
            "scale": Encoded(
                tensor,
                lambda values, _: _e4m3_scales(values, whole.tensor()),
                shape=(rows, columns // self.BLOCK),
                dtype="F8_E4M3",
            ),
            "global_scale": whole,
        }

    def decode(self, parts: Checkpoint, shape: Sequence[int]) -> LazyTensor:
        packed, scale, whole = parts["packed"], parts["scale"], parts["global_scale"]

        def values(start: int, stop: int) -> Any:
            scale_RG = scale.rows(start, stop).float() / whole.tensor()
            return _times(unpack_e2m1(packed.rows(start, stop)), scale_RG)

        return _decoded(values, shape, packed, scale)


def pack_e2m1(values_RC: Any) -> Any:
    """Round to e2m1 and put two into a byte, the first into its lower half."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    magnitudes = values_RC.abs()
    codes = torch.signbit(values_RC).to(torch.uint8) << 3
    for bound in _TIES_UP:
        codes += magnitudes >= bound
    for bound in _TIES_DOWN:
        codes += magnitudes > bound
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack_e2m1(packed: Any) -> Any:
    """Return float32 values, twice as many in a row."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    table = torch.tensor([*_E2M1, *(-value for value in _E2M1)], dtype=torch.float32)
    codes = torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)
    return table[codes.int()]


def _e4m3_scales(values_RC: Any, global_scale: Any) -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    largest_RG = values_RC.abs().unflatten(1, (-1, NvFp4.BLOCK)).amax(dim=2)
    scales = rounded(largest_RG / _E2M1[-1] * global_scale, E4M3)
    # As compressed-tensors where a block is zero, or so small that its scale is.
    return torch.where(scales.float() == 0, torch.tensor(0.125).to(scales.dtype), scales)


def _global_scale(tensor: LazyTensor) -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    found = max(largest(tensor), _TINY)
    scale = torch.tensor([E4M3.full * _E2M1[-1]]) / torch.tensor([found])
    return scale.nan_to_num(posinf=1.0)


def _power(exponents: Any) -> Any:
    return (exponents.float() - _BIAS).exp2()


def _times(elements_RC: Any, scale_RG: Any) -> Any:
    return (elements_RC.unflatten(1, (scale_RG.shape[1], -1)) * scale_RG[..., None]).flatten(1)


def _misfit(tensor: LazyTensor, block: int) -> str:
    columns = tensor.shape[1]
    return f"rows of {columns} do not divide by blocks of {block}" if columns % block else ""


def _decoded(
    values: Any, shape: Sequence[int], weight: LazyTensor, scale: LazyTensor
) -> LazyTensor:
    cost = weight.row_cost_bytes + 16 * shape[1]
    return computed(values, shape=shape, dtype="F32", of=(weight, scale), row_cost_bytes=cost)
