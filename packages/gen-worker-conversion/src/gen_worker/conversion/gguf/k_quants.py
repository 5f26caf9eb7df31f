"""The K-quants of GGUF: blocks of 256 values whose groups of 16 or 32 have scales of their own.

Shapes: R rows, B blocks in all of them, J groups of a block, G values of a group, N = B * J.
Layouts and rounding are those of ggml-quants.c of llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.block_parts import first_peak, half_bytes
from gen_worker.conversion.gguf.k_fits import (
    Ranges,
    RangeSearch,
    divided,
    fit_cubes,
    fit_positive,
    fit_ranges,
    fit_symmetric,
    sum_in_order,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    Quantize = Callable[..., torch.Tensor]

__all__ = ["K_QUANTS"]

_BLOCK = 256
_CHUNK = 512
"""Blocks that are worked on at once: what is computed of them stays in a core's cache."""
_Q2 = RangeSearch(levels=3, first=-0.5, step=0.1, steps=15, is_absolute=True)
_Q4 = RangeSearch(levels=15, first=-1.0, step=0.1, steps=20, is_absolute=False)
_Q5 = RangeSearch(levels=31, first=-0.5, step=0.1, steps=15, is_absolute=False)
_HIGHEST_6_BITS = 63


def _by_chunks(quantize: Callable[[Any, Any], Any]) -> Quantize:
    """Make a function of blocks one of rows."""

    def of_rows(rows: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
        """Quantize.

        Args:
            rows: (R, columns) float32; columns are a multiple of 256.
            importance: (columns) float32, of the columns; by default values decide.

        Returns:
            (R, bytes of a row) uint8.
        """
        import torch

        x_BV: Any = rows.reshape(-1, _BLOCK)
        chunks = x_BV.split(_CHUNK)
        weights = [None] * len(chunks)
        if importance is not None:
            weight_BV: Any = importance.expand_as(rows).reshape(-1, _BLOCK)
            weights = weight_BV.split(_CHUNK)
        parts = [quantize(*chunk) for chunk in zip(chunks, weights, strict=True)]
        return torch.cat(parts).reshape(rows.shape[0], -1)

    return of_rows


def _q2(x_BV: Any, qw_BV: Any) -> Any:
    import torch

    x_GN = _groups(x_BV, 16)
    weight_GN = x_GN.abs() if qw_BV is None else _weights(x_BV, qw_BV, 16, 1)
    ranges = fit_ranges(x_GN, weight_GN, _Q2 if qw_BV is None else _weighted(_Q2))
    shared = _shared_as(15, None if qw_BV is None else weight_GN, 16)
    d_B, scale_BJ = shared(ranges.scale_N)
    dmin_B, offset_BJ = shared(ranges.offset_N)
    level_BV = _ranged(x_GN, ranges, d_B, scale_BJ, dmin_B, offset_BJ, 3)
    scales_BJ = _bytes(scale_BJ) | (_bytes(offset_BJ) << 4)
    return torch.cat([scales_BJ, _quarters(level_BV), half_bytes(d_B), half_bytes(dmin_B)], 1)


def _q3(x_BV: Any, qw_BV: Any) -> Any:
    import torch

    x_GN = _groups(x_BV, 16)
    if qw_BV is None:
        fit = fit_cubes(x_GN, 4)
        d_B, sixth_BJ = _sixths(fit.scale_N.reshape(-1, 16))
    else:
        weight_GN = _weights(x_BV, qw_BV, 16, 2)
        fit = fit_symmetric(x_GN, 4, weight_GN)
        outer = fit_symmetric(
            _by_block(fit.scale_N, 16), 32, _by_block(sum_in_order(weight_GN), 16)
        )
        d_B, sixth_BJ = outer.scale_N, outer.level_GN.T.to(torch.uint8)
    d_N = (_rounded(d_B)[:, None] * (sixth_BJ.float() - 32)).reshape(-1)
    level_GN = (x_GN / d_N).round_().clamp_(-4, 3) + 4
    level_BV = _blocks(torch.where(d_N == 0, fit.level_GN, level_GN))
    low_BJ, high_BJ = sixth_BJ & 15, sixth_BJ >> 4
    scales_B12 = torch.cat(
        [low_BJ[:, :8] | (low_BJ[:, 8:] << 4), _packed(high_BJ.reshape(-1, 4, 4), 2)], 1
    )
    is_high_BV = level_BV > 3
    mask_B32 = _packed(is_high_BV.to(torch.uint8).reshape(-1, 8, 32), 1)
    return torch.cat([mask_B32, _quarters(level_BV & 3), scales_B12, half_bytes(d_B)], 1)


def _q4(x_BV: Any, qw_BV: Any) -> Any:
    import torch

    head_B, level_BV = _with_6_bit_scales(x_BV, qw_BV, _Q4)
    half_BHV = level_BV.reshape(-1, 4, 2, 32)
    packed_B = (half_BHV[:, :, 0] | (half_BHV[:, :, 1] << 4)).reshape(-1, 128)
    return torch.cat([head_B, packed_B], 1)


def _q5(x_BV: Any, qw_BV: Any) -> Any:
    import torch

    head_B, level_BV = _with_6_bit_scales(x_BV, qw_BV, _Q5)
    half_BHV = (level_BV & 15).reshape(-1, 4, 2, 32)
    packed_B = (half_BHV[:, :, 0] | (half_BHV[:, :, 1] << 4)).reshape(-1, 128)
    high_B32 = _packed((level_BV >> 4).reshape(-1, 8, 32), 1)
    return torch.cat([head_B, high_B32, packed_B], 1)


def _q6(x_BV: Any, qw_BV: Any) -> Any:
    import torch

    x_GN = _groups(x_BV, 16)
    fit = fit_symmetric(x_GN, 32, None if qw_BV is None else _groups(qw_BV, 16))
    scale_BJ = fit.scale_N.reshape(-1, 16)
    peak_B = first_peak(scale_BJ)
    is_zero_B = peak_B.abs() < 1e-15
    factor_B = divided(-128, peak_B)
    d_B = torch.where(is_zero_B, 0.0, divided(1, factor_B))
    eighth_BJ = (factor_B[:, None] * scale_BJ).round_().clamp_(-128, 127)
    eighth_BJ = torch.where(is_zero_B[:, None], 0.0, eighth_BJ)
    d_N = (_rounded(d_B)[:, None] * eighth_BJ).reshape(-1)
    level_GN = (x_GN / d_N).round_().clamp_(-32, 31) + 32
    level_BV = _blocks(torch.where(d_N == 0, fit.level_GN, level_GN))
    level_BV = torch.where(is_zero_B[:, None], 0, level_BV)
    low_BHQV = (level_BV & 15).reshape(-1, 2, 4, 32)
    low_B = (low_BHQV[:, :, :2] | (low_BHQV[:, :, 2:] << 4)).reshape(-1, 128)
    high_B = _quarters(level_BV >> 4)
    scales_BJ = eighth_BJ.to(torch.int8).view(torch.uint8)
    return torch.cat([low_B, high_B, scales_BJ, half_bytes(d_B)], 1)


def _with_6_bit_scales(x_BV: Any, qw_BV: Any, search: RangeSearch) -> tuple[Any, Any]:
    """Return the head and the levels of blocks whose groups have a scale and an offset."""
    import torch

    x_GN = _groups(x_BV, 32)
    if qw_BV is None:
        weight_GN = (sum_in_order(x_GN * x_GN) / 32).sqrt() + x_GN.abs()
        ranges = fit_ranges(x_GN, weight_GN, search)
    else:
        weight_GN = _weights(x_BV, qw_BV, 32, 2)
        ranges = fit_ranges(x_GN, weight_GN, _weighted(search))
    shared = _shared_as(_HIGHEST_6_BITS, None if qw_BV is None else weight_GN, 8)
    d_B, scale_BJ = shared(ranges.scale_N)
    dmin_B, offset_BJ = shared(ranges.offset_N)
    level_BV = _ranged(x_GN, ranges, d_B, scale_BJ, dmin_B, offset_BJ, search.levels)
    s_BJ, m_BJ = _bytes(scale_BJ), _bytes(offset_BJ)
    scales_B12 = torch.cat(
        [
            s_BJ[:, :4] | ((s_BJ[:, 4:] >> 4) << 6),
            m_BJ[:, :4] | ((m_BJ[:, 4:] >> 4) << 6),
            (s_BJ[:, 4:] & 15) | ((m_BJ[:, 4:] & 15) << 4),
        ],
        1,
    )
    return torch.cat([half_bytes(d_B), half_bytes(dmin_B), scales_B12], 1), level_BV


# -- parts of a block ------------------------------------------------------------------------------


def _groups(x_BV: Any, size: int) -> Any:
    """Return the values with a group a column."""
    return x_BV.reshape(-1, size).T.contiguous()


def _blocks(level_GN: Any) -> Any:
    """Return levels with a block a row."""
    import torch

    return level_GN.T.to(torch.uint8).reshape(-1, _BLOCK)


def _weights(x_BV: Any, qw_BV: Any, size: int, factor: int) -> Any:
    """Return how much each value's error counts: its column's importance, and its own size."""
    mean_B = sum_in_order((x_BV * x_BV).T) * factor / _BLOCK
    return _groups(qw_BV * (mean_B[:, None] + x_BV * x_BV).sqrt(), size)


def _weighted(search: RangeSearch) -> RangeSearch:
    """Return which scales are tried when errors are weighed by importance."""
    return RangeSearch(levels=search.levels, first=-0.9, step=0.05, steps=36, is_absolute=False)


def _by_block(value_N: Any, groups: int) -> Any:
    """Return values of groups with a block a column."""
    return value_N.reshape(-1, groups).T.contiguous()


def _shared_as(highest: int, weight_GN: Any, groups: int) -> Callable[[Any], tuple[Any, Any]]:
    """Return what makes one scale of a block's scales, and levels of these."""
    if weight_GN is None:
        return lambda value_N: _shared(value_N.reshape(-1, groups), highest)
    weight_JB = _by_block(sum_in_order(weight_GN), groups)

    def fitted(value_N: Any) -> tuple[Any, Any]:
        fit = fit_positive(_by_block(value_N, groups), highest, weight_JB)
        return fit.scale_N, fit.level_GN.T

    return fitted


def _sixths(scale_BJ: Any) -> tuple[Any, Any]:
    """Return the scale of a block's scales, and these as numbers of six bits around 32."""
    import torch

    peak_B = first_peak(scale_BJ)
    factor_B = divided(-32, peak_B)
    is_zero_B = peak_B == 0
    sixth_BJ = (factor_B[:, None] * scale_BJ).round_().clamp_(-32, 31) + 32
    sixth_BJ = torch.where(is_zero_B[:, None], 0.0, sixth_BJ).to(torch.uint8)
    return torch.where(is_zero_B, 0.0, divided(1, factor_B)), sixth_BJ


def _shared(value_BJ: Any, highest: int) -> tuple[Any, Any]:
    """Return the scale of a block's scales, and these as levels of it."""
    import torch

    most_B = value_BJ.amax(1).clamp_(min=0) + 0.0  # never the negative zero
    factor_B = torch.where(most_B > 0, divided(highest, most_B), 0.0)
    level_BJ = (factor_B[:, None] * value_BJ).round_()
    return most_B / highest, level_BJ.clamp_(0, highest)


def _ranged(
    x_GN: Any,
    ranges: Ranges,
    d_B: Any,
    scale_BJ: Any,
    dmin_B: Any,
    offset_BJ: Any,
    highest: int,
) -> Any:
    """Return the levels that are nearest once scales and offsets are rounded."""
    import torch

    d_N = (_rounded(d_B)[:, None] * scale_BJ).reshape(-1)
    offset_N = (_rounded(dmin_B)[:, None] * offset_BJ).reshape(-1)
    level_GN = ((x_GN + offset_N) / d_N).round_().clamp_(0, highest)
    is_zero_N = d_N == 0
    if bool(is_zero_N.any()):  # these keep what the search had found
        fit_GN = ((x_GN - ranges.base_N) * ranges.factor_N).round_().clamp_(0, highest)
        level_GN = torch.where(is_zero_N, fit_GN, level_GN)
    return _blocks(level_GN)


def _rounded(value_B: Any) -> Any:
    return value_B.half().float()


def _bytes(value: Any) -> Any:
    import torch

    return value.to(torch.uint8)


def _quarters(level_BV: Any) -> Any:
    """Pack levels of two bits: four values that are 32 apart share a byte."""
    return _packed(level_BV.reshape(-1, 4, 32), 2).reshape(-1, _BLOCK // 4)


def _packed(part_XPV: Any, bits: int) -> Any:
    """Put parts beside one another into bytes, the first into the lowest bits."""
    packed = part_XPV[:, 0].clone()
    for index in range(1, part_XPV.shape[1]):
        packed |= part_XPV[:, index] << (bits * index)
    return packed


K_QUANTS: Mapping[str, Quantize] = {
    "Q2_K": _by_chunks(_q2),
    "Q3_K": _by_chunks(_q3),
    "Q4_K": _by_chunks(_q4),
    "Q5_K": _by_chunks(_q5),
    "Q6_K": _by_chunks(_q6),
}
"""Functions of rows, by the name of the type."""
