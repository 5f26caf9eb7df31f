"""The quants of GGUF whose 16 levels are not evenly spaced: IQ4_NL and IQ4_XS.

Shapes: N groups of V = 32 values, B blocks of J groups. Layouts, levels and rounding are those of
ggml-quants.c of llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.block_parts import half_bytes
from gen_worker.conversion.gguf.k_fits import add_up, divided, peaks, sum_in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

__all__ = ["IQ4_QUANTS"]

_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_GROUP = 32
_CHUNK = 4096
"""Groups that are worked on at once: what is computed of them stays in a core's cache."""


def _by_chunks(quantize: Callable[[Any, Any], Any], block: int) -> Callable[..., torch.Tensor]:
    """Make a function of blocks one of rows."""

    def of_rows(rows: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
        """Quantize.

        Args:
            rows: (R, columns) float32; columns are a multiple of the block.
            importance: (columns) float32, of the columns; by default values decide.

        Returns:
            (R, bytes of a row) uint8.
        """
        import torch

        x_BV: Any = rows.reshape(-1, block)
        chunks = x_BV.split(_CHUNK * _GROUP // block)
        weights = [None] * len(chunks)
        if importance is not None:
            weight_BV: Any = importance.expand_as(rows).reshape(-1, block)
            weights = weight_BV.split(len(chunks[0]))
        parts = [quantize(*chunk) for chunk in zip(chunks, weights, strict=True)]
        return torch.cat(parts).reshape(rows.shape[0], -1)

    return of_rows


def _iq4_nl(x_BV: Any, qw_BV: Any) -> Any:
    import torch

    x_VN = x_BV.T.contiguous()
    scale_N = _fitted(x_VN, _weights(x_BV, qw_BV))
    factor_N = torch.where(scale_N != 0, divided(1, scale_N), 0.0)
    return torch.cat([half_bytes(scale_N), _nibbles(_nearest(x_VN * factor_N).T)], 1)


def _iq4_xs(x_BV: Any, qw_BV: Any) -> Any:
    import torch

    x_VN = x_BV.reshape(-1, _GROUP).T.contiguous()
    scale_N = _fitted(x_VN, _weights(x_BV, qw_BV))
    scale_JB = scale_N.reshape(-1, 8).T
    d_B = peaks(scale_JB)[0] / -32
    factor_B = torch.where(d_B != 0, divided(1, d_B), 0.0)
    sixth_JB = (scale_JB * factor_B).round_().clamp_(-32, 31)
    d_N = (sixth_JB * d_B).T.reshape(-1)
    factor_N = torch.where(d_N != 0, divided(1, d_N), 0.0)
    packed_B = _nibbles(_nearest(x_VN * factor_N).T).reshape(len(x_BV), -1)
    sixth_BJ = (sixth_JB.T + 32).to(torch.uint8)
    low_B4 = (sixth_BJ[:, ::2] & 15) | ((sixth_BJ[:, 1::2] & 15) << 4)
    high_B24 = (sixth_BJ >> 4).reshape(-1, 2, 4)
    high_B2 = high_B24[..., 0].clone()
    for index in range(1, 4):
        high_B2 |= high_B24[..., index] << (2 * index)
    return torch.cat([half_bytes(d_B), high_B2, low_B4, packed_B], 1)


def _weights(x_BV: Any, qw_BV: Any) -> Any:
    """Return how much each value's error counts, with a group a column."""
    weight_BV = x_BV * x_BV
    if qw_BV is not None:
        mean_B = sum_in_order(weight_BV.T) * (2 / x_BV.shape[1])
        weight_BV = qw_BV * (mean_B[:, None] + weight_BV).sqrt()
    return weight_BV.reshape(-1, _GROUP).T.contiguous()


def _fitted(x_VN: Any, weight_VN: Any) -> Any:
    """Return the scale of least error among several for each group."""
    import torch

    peak_N, is_flat_N = peaks(x_VN)
    factors = [divided(1, peak_N / 127), *(divided(step - 127, peak_N) for step in range(-7, 8))]
    levels = torch.tensor(_LEVELS, dtype=torch.float32)
    scale_N = best_N = torch.zeros_like(peak_N)
    for index, factor_N in enumerate(factors):
        level_VN = levels[_nearest(x_VN * factor_N).long()]
        share_VN = weight_VN * level_VN
        lx_N, l2_N = add_up(share_VN * x_VN), add_up(share_VN * level_VN)
        is_better_N = l2_N > 0
        if index:
            is_better_N &= lx_N * lx_N > best_N * l2_N
        scale_N = torch.where(is_better_N, lx_N / l2_N, scale_N)
        best_N = torch.where(is_better_N, scale_N * lx_N, best_N)
    return torch.where(is_flat_N, 0.0, scale_N)


def _nearest(value: Any) -> Any:
    """Return which level is nearest, as uint8; in the middle, the higher one."""
    import torch

    levels = torch.tensor(_LEVELS, dtype=torch.float32)
    above = torch.bucketize(value, levels, right=True).clamp_(1, 15)
    is_lower = value - levels[above - 1] < levels[above] - value
    return (above - is_lower.long()).to(torch.uint8)


def _nibbles(level_NV: Any) -> Any:
    """Pack levels of four bits: the second half of a group lies above the first."""
    return level_NV[:, :16] | (level_NV[:, 16:] << 4)


IQ4_QUANTS: Mapping[str, Callable[..., Any]] = {
    "IQ4_NL": _by_chunks(_iq4_nl, 32),
    "IQ4_XS": _by_chunks(_iq4_xs, 256),
}
"""Functions of rows, by the name of the type."""
