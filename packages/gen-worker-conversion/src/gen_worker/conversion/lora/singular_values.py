"""The largest singular values of a matrix and their vectors, without all the others.

A subspace a little wider than what is wanted is turned towards the largest values by multiplying it
with the matrix and its transpose, again and again (Halko, Martinsson and Tropp, "Finding structure
with randomness", 2011, algorithm 4.4). Beside the matrix that takes a few thin ones; LAPACK's whole
decomposition takes six matrices of its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lora.factoring import truncated

if TYPE_CHECKING:
    from gen_worker.conversion.lora.factoring import Decomposed

__all__ = ["REST_TOLERANCE", "decomposed"]

REST_TOLERANCE = 1e-3
"""How much larger what is left of the matrix may be than the least that a rank leaves, as a share
of its Frobenius norm."""
_GAIN_TOLERANCE = REST_TOLERANCE / 4
"""Of the energy that is left: what more steps would gain. Twice a share of a norm is one of its
square, and an estimate may be off by as much again."""
_FLOAT_NOISE = 2e-7
"""Share of the energy of all that float32 does not tell: 0.05 % of the norm."""
_LEAST_SHARE = 8
"""The smaller side over the rank, from which on a subspace is less work than all of it."""
_LEAST_WIDER = 8
_STEPS = 30
_SLOWEST = 0.95
"""Ratio of two gains in a row that an estimate goes on from at most."""


def decomposed(matrix: Any, rank: int) -> Decomposed:
    """Return the part of the largest singular values of a matrix, `(rows, columns)` in float32.

    Where the rank is at most an eighth of the smaller side, what is left is at most
    `REST_TOLERANCE` larger than the least possible, as far as float32 tells. Beside the matrix are
    then 0.7 more in memory for rank 64 of 4096, and 1.7 for an eighth. Else, and where the values
    fall too slowly to be told apart, LAPACK decomposes all of it, which takes 6.4 more (peaks of
    processes with torch 2.13 on a CPU).
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    is_low = _LEAST_SHARE * rank <= min(matrix.shape)
    found = _by_iteration(matrix, rank) if is_low else None
    if found is not None:
        return found
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return truncated(left, values, right, rank)


def _by_iteration(matrix: Any, rank: int) -> Decomposed | None:
    """Return the largest values and their vectors; None where they are not found in time."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    width = rank + max(rank // 2, _LEAST_WIDER)
    total = _energy(matrix.flatten())
    generator = torch.Generator().manual_seed(0)  # the same adapter every time
    right = torch.randn(matrix.shape[1], width, generator=generator)
    progress = _Progress(total)
    for _ in range(_STEPS):
        left = torch.linalg.qr(matrix @ right)[0]
        right, upper = torch.linalg.qr((left.T @ matrix).T)
        if progress.is_done(_energy(torch.linalg.svdvals(upper)[:rank])):
            turned, values, across = torch.linalg.svd(upper.T)
            return truncated(left @ turned, values, across @ right.T, rank)
    return None


class _Progress:
    """Tells when more steps would gain next to nothing."""

    def __init__(self, total: float) -> None:
        self._total = total
        self._held = self._gain = 0.0
        self._steps = 0

    def is_done(self, held: float) -> bool:
        """Take the energy that is held now."""
        gain, before = held - self._held, self._gain
        self._held, self._gain, self._steps = held, gain, self._steps + 1
        if self._steps < 3:
            return False
        allowed = max(_GAIN_TOLERANCE * (self._total - held), _FLOAT_NOISE * self._total)
        ratio = min(max(gain / before, 0.0), _SLOWEST) if before > 0 else 0.0
        return max(gain, gain * ratio / (1 - ratio)) <= allowed


def _energy(values: Any) -> float:
    """Return the sum of the squares, added up in pieces: a wide copy would be twice the matrix."""
    return sum(float(part.double().square().sum()) for part in values.split(1 << 20))
