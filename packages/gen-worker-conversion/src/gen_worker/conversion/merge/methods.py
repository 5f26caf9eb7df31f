"""The methods of merging by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.merge.checkpoints import (
    merge_dare,
    merge_linear,
    merge_slerp,
    merge_task_arithmetic,
    merge_ties,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.conversion.lazy import Checkpoint
    from gen_worker.conversion.merge.checkpoints import MergedModels, Weights

__all__ = ["BASED", "METHODS", "MergeMethod", "merge_by_method"]

MergeMethod = Literal["linear", "slerp", "task-arithmetic", "ties", "dare", "dare-ties"]
METHODS: tuple[MergeMethod, ...] = get_args(MergeMethod)
BASED: tuple[MergeMethod, ...] = ("task-arithmetic", "ties", "dare", "dare-ties")
"""Those that sum what tunings of one base have learnt: the first model is the base."""
_DENSITIES = {"ties": 0.2, "dare": 0.5, "dare-ties": 0.5}


def merge_by_method(
    models: Sequence[tuple[Checkpoint, Weights]],
    method: MergeMethod,
    *,
    density: float | None = None,
    seed: int = 0,
) -> MergedModels:
    """Merge checkpoints with the same tensors.

    Args:
        models: At least two, each with its weight; of `slerp` exactly two, of which the second
            one's is the position between them. The first one of methods in `BASED` is the base,
            whose weight does not count.
        method: One of `METHODS`.
        density: Share of each difference that is kept; None takes 0.2 for `ties` and 0.5 for both
            of `dare`.
        seed: Of what `dare` drops.

    Raises:
        ConversionInputError: The number of models, or an option, is not for this method; or the
            models do not fit each other.
    """
    if len(models) < 2 or (method == "slerp" and len(models) != 2):
        raise ConversionInputError(
            f"{len(models)} models cannot be merged by {method!r}: give "
            f"{'two' if method == 'slerp' else 'at least two'}"
        )
    if density is not None and method not in _DENSITIES:
        raise ConversionInputError(
            f"{method!r} keeps all of each difference: give a density only to "
            f"{', '.join(_DENSITIES)}"
        )
    share = _DENSITIES.get(method, 1.0) if density is None else density
    (first, _), *others = models
    match method:
        case "linear":
            return merge_linear(models)
        case "slerp":
            return merge_slerp(first, others[0][0], others[0][1])
        case "task-arithmetic":
            return merge_task_arithmetic(first, others)
        case "ties":
            return merge_ties(first, others, density=share)
        case "dare" | "dare-ties":
            consensus = method == "dare-ties"
            return merge_dare(first, others, density=share, seed=seed, consensus=consensus)
