"""How K-quants find the scales of a group: by trying several and keeping the one of least error.

All groups are fitted at once. `x_GN` holds the values of N groups of G values, a group a column;
sums run over its values in order and nothing is fused, as in the reference (ggml-quants.c of
llama.cpp), so that the results are the same to the bit.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

__all__ = [
    "RangeSearch",
    "Ranges",
    "Symmetric",
    "add_up",
    "divided",
    "fit_cubes",
    "fit_positive",
    "fit_ranges",
    "fit_symmetric",
    "peaks",
    "sum_in_order",
]

_LANES = 64
"""Groups that torch adds up at once; it takes another order for what is left."""
_RUN = 16
"""Rows that torch adds up before it adds sums."""
_FLAT = 1e-15
"""Largest magnitude of a group that counts as zero."""


class RangeSearch(NamedTuple):
    """Which scales are tried for groups with a minimum of their own."""

    levels: int
    """The highest."""
    first: float
    step: float
    steps: int
    is_absolute: bool
    """Whether errors are weighed as they are, and not squared."""


class Ranges(NamedTuple):
    """A scale and an offset for each group: a value is `scale * level - offset`."""

    scale_N: torch.Tensor
    offset_N: torch.Tensor
    factor_N: torch.Tensor
    """With `base_N`, what the levels of this fit are computed with."""
    base_N: torch.Tensor


class Symmetric(NamedTuple):
    """A scale for each group: a value is `scale * (level - half)`."""

    scale_N: torch.Tensor
    level_GN: torch.Tensor


def fit_ranges(x_GN: Any, weight_GN: Any, search: RangeSearch) -> Ranges:
    """Fit groups with a minimum."""
    import torch

    highest = search.levels
    low_N = x_GN.amin(0).clamp_(max=0)
    high_N = x_GN.amax(0)
    is_flat_N = high_N == low_N
    weighted_N = add_up(weight_GN * x_GN)
    weights_N = sum_in_order(weight_GN)
    factor_N = divided(highest, high_N - low_N)
    scale_N = divided(1, factor_N)
    level_GN = _levels(x_GN, factor_N, low_N, highest)
    best_N = _error(x_GN, level_GN, weight_GN, scale_N, low_N, search)
    used = [factor_N, low_N]
    for index in range(search.steps + 1):
        wanted = _float32(
            _float32(search.first + _float32(_float32(search.step) * index)) + highest
        )
        factor_N = divided(wanted, high_N - low_N)
        level_GN = _levels(x_GN, factor_N, low_N, highest)
        share_GN = weight_GN * level_GN
        l2_N, xl_N = add_up(share_GN * level_GN), add_up(share_GN * x_GN)
        l_N = add_up(share_GN)
        spread_N = weights_N * l2_N - l_N * l_N
        new_scale_N = (weights_N * xl_N - weighted_N * l_N) / spread_N
        new_low_N = (l2_N * weighted_N - l_N * xl_N) / spread_N
        is_above_N = new_low_N > 0
        new_scale_N = torch.where(is_above_N, xl_N / l2_N, new_scale_N)
        new_low_N = torch.where(is_above_N, 0.0, new_low_N)
        error_N = _error(x_GN, level_GN, weight_GN, new_scale_N, new_low_N, search)
        is_better_N = (spread_N > 0) & (error_N < best_N)
        best_N = torch.where(is_better_N, error_N, best_N)
        used[0] = torch.where(is_better_N, factor_N, used[0])
        used[1] = torch.where(is_better_N, low_N, used[1])
        scale_N = torch.where(is_better_N, new_scale_N, scale_N)
        low_N = torch.where(is_better_N, new_low_N, low_N)
    flat_low_N = x_GN.amin(0).clamp_(max=0)
    return Ranges(
        torch.where(is_flat_N, 0.0, scale_N),
        -torch.where(is_flat_N, flat_low_N, low_N),
        torch.where(is_flat_N, 0.0, used[0]),
        torch.where(is_flat_N, flat_low_N, used[1]),
    )


def fit_symmetric(x_GN: Any, half: int, weight_GN: Any = None) -> Symmetric:
    """Fit groups around zero, with errors weighed by the squares of their values, or as given."""
    import torch

    peak_N, is_flat_N = peaks(x_GN)
    square_GN = x_GN * x_GN if weight_GN is None else weight_GN
    cube_GN = square_GN * x_GN
    factor_N = divided(-half, peak_N)
    level_GN = _signed(x_GN, factor_N, half)
    lx_N, l2_N = add_up(cube_GN * level_GN), add_up(square_GN * level_GN * level_GN)
    scale_N = torch.where(l2_N != 0, lx_N / l2_N, 0.0)
    best_N = scale_N * lx_N
    for index in (*range(-9, 0), *range(1, 10)):
        wanted = _float32(half + _float32(_float32(0.1) * index))
        other_N = divided(-wanted, peak_N)
        other_GN = _signed(x_GN, other_N, half)
        lx_N, l2_N = add_up(cube_GN * other_GN), add_up(square_GN * other_GN * other_GN)
        is_better_N = (l2_N > 0) & (lx_N * lx_N > best_N * l2_N)
        scale_N = torch.where(is_better_N, lx_N / l2_N, scale_N)
        best_N = torch.where(is_better_N, scale_N * lx_N, best_N)
        factor_N = torch.where(is_better_N, other_N, factor_N)
    level_GN = torch.where(is_flat_N, 0.0, _signed(x_GN, factor_N, half) + half)
    return Symmetric(torch.where(is_flat_N, 0.0, scale_N), level_GN)


def fit_cubes(x_GN: Any, half: int) -> Symmetric:
    """Fit groups around zero by moving one value after the other to a better level."""
    import torch

    peak_N, is_flat_N = peaks(x_GN)
    square_GN = x_GN * x_GN
    cube_GN = square_GN * x_GN
    level_GN = _signed(x_GN, divided(-half, peak_N), half)
    lx_N, l2_N = add_up(cube_GN * level_GN), add_up(square_GN * level_GN * level_GN)
    for _ in range(5):
        before_GN = level_GN.clone()
        for index, level_N in enumerate(level_GN):
            x_N, square_N, cube_N = x_GN[index], square_GN[index], cube_GN[index]
            rest_lx_N = lx_N - cube_N * level_N
            rest_l2_N = l2_N - square_N * level_N * level_N
            new_N = (x_N * rest_l2_N / rest_lx_N).round_().clamp_(-half, half - 1)
            new_lx_N = rest_lx_N + cube_N * new_N
            new_l2_N = rest_l2_N + square_N * new_N * new_N
            is_better_N = (rest_lx_N > 0) & (new_N != level_N) & (new_l2_N > 0)
            is_better_N &= new_lx_N * new_lx_N * l2_N > lx_N * lx_N * new_l2_N
            level_GN[index] = torch.where(is_better_N, new_N, level_N)
            lx_N = torch.where(is_better_N, new_lx_N, lx_N)
            l2_N = torch.where(is_better_N, new_l2_N, l2_N)
        if torch.equal(before_GN, level_GN):
            break
    scale_N = torch.where(l2_N > 0, lx_N / l2_N, 0.0)
    level_GN = torch.where(is_flat_N, 0.0, level_GN + half)
    return Symmetric(torch.where(is_flat_N, 0.0, scale_N), level_GN)


def fit_positive(x_GN: Any, highest: int, weight_GN: Any) -> Symmetric:
    """Fit groups of values above zero, without an offset: a value is `scale * level`."""
    import torch

    most_N = x_GN.amax(0).clamp_(min=0)
    is_flat_N = most_N < _FLAT
    factor_N = divided(highest, most_N)
    best_N = _square_error(x_GN, (x_GN * factor_N).round_(), factor_N, weight_GN)
    for index in (*range(-4, 0), *range(1, 5)):
        other_N = divided(_float32(_float32(_float32(0.1) * index) + highest), most_N)
        other_GN = (x_GN * other_N).round_().clamp_(max=highest)
        error_N = _square_error(x_GN, other_GN, other_N, weight_GN)
        is_better_N = error_N < best_N
        best_N = torch.where(is_better_N, error_N, best_N)
        factor_N = torch.where(is_better_N, other_N, factor_N)
    level_GN = (x_GN * factor_N).round_().clamp_(max=highest)
    scale_N = _refined(x_GN, level_GN, weight_GN, highest)
    is_zero_GN = is_flat_N.expand_as(level_GN)
    return Symmetric(torch.where(is_flat_N, 0.0, scale_N), level_GN.masked_fill(is_zero_GN, 0.0))


def _refined(x_GN: Any, level_GN: Any, weight_GN: Any, highest: int) -> Any:
    """Move one level after the other where that helps; return the scales."""
    import torch

    share_GN = weight_GN * x_GN
    lx_N = add_up(share_GN * level_GN)
    l2_N = add_up(weight_GN * level_GN * level_GN)
    for _ in range(5):
        for index, level_N in enumerate(level_GN):
            share_N, weight_N = share_GN[index], weight_GN[index]
            rest_lx_N = lx_N - share_N * level_N
            rest_l2_N = l2_N - weight_N * level_N * level_N
            new_N = (x_GN[index] * rest_l2_N / rest_lx_N).round_().clamp_(max=highest)
            new_lx_N = rest_lx_N + share_N * new_N
            new_l2_N = rest_l2_N + weight_N * new_N * new_N
            is_better_N = (rest_lx_N > 0) & (rest_l2_N > 0) & (new_N != level_N)
            is_better_N &= new_lx_N * new_lx_N * l2_N > lx_N * lx_N * new_l2_N
            level_GN[index] = torch.where(is_better_N, new_N, level_N)
            lx_N = torch.where(is_better_N, new_lx_N, lx_N)
            l2_N = torch.where(is_better_N, new_l2_N, l2_N)
    return torch.where(l2_N > 0, lx_N / l2_N, 0.0)


def _square_error(x_GN: Any, level_GN: Any, factor_N: Any, weight_GN: Any) -> Any:
    off_GN = x_GN - level_GN * divided(1, factor_N)
    return add_up(weight_GN * off_GN * off_GN)


def divided(number: float, by_N: Any) -> Any:
    """Divide a number by a tensor; torch's operator multiplies by the reciprocal, which differs."""
    return by_N.new_full((), number) / by_N


def sum_in_order(term_GN: Any) -> Any:
    """Add up the values of each group, one after the other."""
    return add_up(term_GN.clone())


def add_up(term_GN: Any) -> Any:
    """Do as `sum_in_order`, and leave anything in the place of the values."""
    groups = term_GN.shape[1]
    if groups % _LANES == 0 and term_GN.is_contiguous() and _rows_add_in_order():
        return _sum_by_rows(term_GN)
    total_N = term_GN[0].clone()
    for term_N in term_GN[1:]:
        total_N += term_N
    return total_N


def _sum_by_rows(term_GN: Any) -> Any:
    total_N = term_GN[:_RUN].sum(0)
    for start in range(_RUN, len(term_GN), _RUN):
        term_GN[start - 1] = total_N  # the sum so far comes first
        total_N = term_GN[start - 1 : start + _RUN].sum(0)
    return total_N


@cache
def _rows_add_in_order() -> bool:
    """Tell whether `sum(0)` of so few rows adds them in order: torch does, but promises nothing."""
    import torch

    generator = torch.Generator().manual_seed(0)
    term_GN: Any = torch.randn(4 * _RUN, 16 * _LANES, generator=generator).exp_()
    wanted_N = term_GN[0].clone()
    for term_N in term_GN[1:]:
        wanted_N += term_N
    return bool(torch.equal(_sum_by_rows(term_GN), wanted_N))


def _levels(x_GN: Any, factor_N: Any, low_N: Any, highest: int) -> Any:
    return ((x_GN - low_N) * factor_N).round_().clamp_(0, highest)


def _signed(x_GN: Any, factor_N: Any, half: int) -> Any:
    return (x_GN * factor_N).round_().clamp_(-half, half - 1)


def _error(
    x_GN: Any, level_GN: Any, weight_GN: Any, scale_N: Any, low_N: Any, search: RangeSearch
) -> Any:
    off_GN = (level_GN * scale_N).add_(low_N).sub_(x_GN)
    off_GN = off_GN.abs_() if search.is_absolute else off_GN.mul_(off_GN)
    return add_up(off_GN.mul_(weight_GN))


def peaks(x_GN: Any) -> Any:
    """Return each group's first value of the largest magnitude, and whether it counts as zero."""
    import torch

    size_GN = x_GN.abs()
    largest_N = size_GN.amax(0)
    peak_N = torch.zeros_like(largest_N)
    for x_N, size_N in zip(reversed(x_GN.unbind()), reversed(size_GN.unbind()), strict=True):
        peak_N = torch.where(size_N == largest_N, x_N, peak_N)
    return peak_N, largest_N < _FLAT


def _float32(value: float) -> float:
    """Round as a C compiler does with `float`."""
    import struct

    return float(struct.unpack("<f", struct.pack("<f", value))[0])
