"""The quants of GGUF with one scale for 32 values: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.

Shapes: R rows, B blocks in all of them, V = 32 values of a block. Layouts and rounding are those of
ggml-quants.c of llama.cpp. Blocks are worked on in chunks: of more the intermediate results leave a
core's cache, of fewer a call of torch costs as much as what it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.block_parts import first_peak, half_bytes
from gen_worker.conversion.gguf.k_fits import (
    RangeSearch,
    fit_ranges,
    fit_symmetric,
    sum_in_order,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

__all__ = ["SIMPLE_QUANTS"]

_VALUES = 32
_GATHER = 0x0102040810204080
"""Times eight bytes of one bit each, it has these bits in its highest byte, the first lowest."""
_CHUNK = 4096
"""Blocks; their values are half a megabyte."""


def _by_chunks(
    size_bytes: int,
    fill: Callable[[Any, Any], object],
    fill_weighted: Callable[[Any, Any, Any], object] | None = None,
) -> Callable[..., torch.Tensor]:
    """Make a function of rows of ones that fill the bytes of blocks."""

    def of_rows(rows: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
        """Quantize.

        Args:
            rows: (R, columns) float32; columns are a multiple of 32.
            importance: (columns) float32, of the columns; by default, and in eight bits, values
                decide.

        Returns:
            (R, bytes of a row) uint8.
        """
        import torch

        x_BV: Any = rows.reshape(-1, _VALUES)
        made = torch.empty((len(x_BV), size_bytes), dtype=torch.uint8)
        parts: Any = made
        chunks, places = x_BV.split(_CHUNK), parts.split(_CHUNK)
        if importance is None or fill_weighted is None:
            for chunk, part in zip(chunks, places, strict=True):
                fill(chunk, part)
        else:
            weights = _row_weights(rows, importance).reshape(-1, _VALUES).split(_CHUNK)
            for chunk, part, weight in zip(chunks, places, weights, strict=True):
                fill_weighted(chunk, part, weight)
        return made.reshape(len(rows), -1)

    return of_rows


def _q8_0(x_BV: Any, made_BY: Any) -> None:
    import torch

    d_B = x_BV.abs().amax(1) / 127
    level_BV = x_BV * _inverse(d_B)[:, None]
    level_BV.add_(level_BV.sign(), alpha=0.5)  # halves go away from zero
    made_BY[:, :2] = half_bytes(d_B)
    made_BY[:, 2:].view(torch.int8).copy_(level_BV)


def _q4_0(x_BV: Any, made_BY: Any) -> None:
    d_B, level_BV = _around_zero(x_BV, 8)
    made_BY[:, :2] = half_bytes(d_B)
    made_BY[:, 2:] = _nibbles(level_BV)


def _q4_1(x_BV: Any, made_BY: Any) -> None:
    d_B, low_B, level_BV = _above_minimum(x_BV, 15)
    made_BY[:, :2] = half_bytes(d_B)
    made_BY[:, 2:4] = half_bytes(low_B)
    made_BY[:, 4:] = _nibbles(level_BV)


def _q5_0(x_BV: Any, made_BY: Any) -> None:
    d_B, level_BV = _around_zero(x_BV, 16)
    made_BY[:, :2] = half_bytes(d_B)
    made_BY[:, 2:6] = _fifth_bits(level_BV)
    made_BY[:, 6:] = _nibbles(level_BV & 15)


def _q5_1(x_BV: Any, made_BY: Any) -> None:
    d_B, low_B, level_BV = _above_minimum(x_BV, 31)
    made_BY[:, :2] = half_bytes(d_B)
    made_BY[:, 2:4] = half_bytes(low_B)
    made_BY[:, 4:8] = _fifth_bits(level_BV)
    made_BY[:, 8:] = _nibbles(level_BV & 15)


def _weighted_around_zero(bits: int) -> Callable[[Any, Any, Any], object]:
    """Make what fills blocks of levels around zero, with errors weighed."""

    def fill(x_BV: Any, made_BY: Any, weight_BV: Any) -> None:
        fit = fit_symmetric(x_BV.T.contiguous(), 1 << (bits - 1), weight_BV.T.contiguous())
        made_BY[:, :2] = half_bytes(fit.scale_N)
        _fill_levels(made_BY[:, 2:], fit.level_GN, bits)

    return fill


def _weighted_above_minimum(bits: int) -> Callable[[Any, Any, Any], object]:
    """Make what fills blocks of levels above a minimum, with errors weighed."""
    highest = (1 << bits) - 1
    search = RangeSearch(levels=highest, first=-0.9, step=0.05, steps=36, is_absolute=False)

    def fill(x_BV: Any, made_BY: Any, weight_BV: Any) -> None:
        x_VB = x_BV.T.contiguous()
        fit = fit_ranges(x_VB, weight_BV.T.contiguous(), search)
        made_BY[:, :2] = half_bytes(fit.scale_N)
        made_BY[:, 2:4] = half_bytes(-fit.offset_N)
        level_VB = ((x_VB - fit.base_N) * fit.factor_N).round_().clamp_(0, highest)
        _fill_levels(made_BY[:, 4:], level_VB, bits)

    return fill


def _fill_levels(made_BY: Any, level_VB: Any, bits: int) -> None:
    import torch

    level_BV = level_VB.T.to(torch.int8).contiguous()
    if bits == 5:
        made_BY[:, :4] = _fifth_bits(level_BV)
        made_BY = made_BY[:, 4:]
    made_BY[:] = _nibbles(level_BV & 15)


def _row_weights(rows: Any, importance: Any) -> Any:
    """Return how much each value's error counts: its column's importance, and its own size."""
    square = rows * rows
    mean_R = sum_in_order(square.T) / rows.shape[1]
    return importance * (mean_R[:, None] + square).sqrt()


def _around_zero(x_BV: Any, half: int) -> tuple[Any, Any]:
    """Return scales and levels; the value of the largest magnitude is the lowest level."""
    d_B = first_peak(x_BV) / -half
    return d_B, _levels(x_BV * _inverse(d_B)[:, None], half + 0.5, 2 * half - 1)


def _above_minimum(x_BV: Any, highest: int) -> tuple[Any, Any, Any]:
    """Return scales, minima and levels."""
    low_B = x_BV.amin(1)
    d_B = (x_BV.amax(1) - low_B) / highest
    scaled_BV = (x_BV - low_B[:, None]).mul_(_inverse(d_B)[:, None])
    return d_B, low_B, _levels(scaled_BV, 0.5, highest)


def _levels(scaled_BV: Any, offset: float, highest: int) -> Any:
    import torch

    # int8: torch is slower with uint8, and no level is above 32.
    return scaled_BV.add_(offset).to(torch.int8).clamp_(max=highest)


def _inverse(d_B: Any) -> Any:
    return d_B.reciprocal().masked_fill_(d_B == 0, 0.0)


def _nibbles(level_BV: Any) -> Any:
    """Pack levels of four bits: the second half of a block lies above the first."""
    import torch

    eight_B4 = level_BV.view(torch.int64)  # eight at a time
    # A sum with a factor is one pass where a shift and an `or` are two.
    return torch.add(eight_B4[:, :2], eight_B4[:, 2:], alpha=16).view(torch.uint8)


def _fifth_bits(level_BV: Any) -> Any:
    """Return the fifth bits of a block as four bytes, the first value's lowest."""
    import torch

    bits_B4 = (level_BV >> 4).view(torch.int64)
    return (bits_B4 * _GATHER >> 56).to(torch.uint8)


SIMPLE_QUANTS: Mapping[str, Callable[..., Any]] = {
    "Q4_0": _by_chunks(18, _q4_0, _weighted_around_zero(4)),
    "Q4_1": _by_chunks(20, _q4_1, _weighted_above_minimum(4)),
    "Q5_0": _by_chunks(22, _q5_0, _weighted_around_zero(5)),
    "Q5_1": _by_chunks(24, _q5_1, _weighted_above_minimum(5)),
    "Q8_0": _by_chunks(34, _q8_0),
}
"""Functions of rows, by the name of the type."""
