"""Merges of checkpoints with the same tensors; a row is computed when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import combine, slerp
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.merge.task_vectors import Sum, sum_of_task_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = [
    "MergedModels",
    "Weights",
    "add_differences",
    "merge_dare",
    "merge_linear",
    "merge_slerp",
    "merge_task_arithmetic",
    "merge_ties",
]

Weights = float | Mapping[str, float]
"""One number for all tensors, or one for each pattern of names, as of files (`*norm*`): the first
that matches counts, so `*` comes last."""


class MergedModels(NamedTuple):
    """What came of a merge."""

    tensors: dict[str, LazyTensor]
    """In the order and the dtypes of the first model."""
    missing: tuple[str, ...]
    """Names that the first model has and another has not: they are those of the first."""
    extra: tuple[str, ...]
    """Names that others have and the first has not: they are left out."""


def merge_linear(
    models: Sequence[tuple[Checkpoint, Weights]], *, normalize: bool = True
) -> MergedModels:
    """Return the weighted sum of the models, tensor by tensor.

    Args:
        models: At least one, each with its weight.
        normalize: Whether the weights of a tensor are divided by their sum.

    Raises:
        ConversionInputError: Shapes differ, a tensor is quantised, a pattern is missing, or the
            weights add up to nothing.
    """

    def one(name: str, tensors: Sequence[LazyTensor]) -> LazyTensor:
        weights = [_weight(given, name) for _, given in models]
        total = sum(weights) if normalize else 1.0
        if total == 0:
            raise ConversionInputError(
                f"the weights of {name!r} add up to 0: choose others, or normalize=False",
                tensor=name,
            )
        terms = [(weight / total, one) for weight, one in zip(weights, tensors, strict=True)]
        return combine(terms, tensors[0].dtype)

    return _merged([checkpoint for checkpoint, _ in models], one)


def merge_slerp(first: Checkpoint, second: Checkpoint, position: Weights) -> MergedModels:
    """Return the models between two, on the arc that joins each tensor of one with the other's.

    Args:
        first: Position 0.
        second: Position 1.
        position: Between them.

    Raises:
        ConversionInputError: As `merge_linear`.
    """

    def one(name: str, tensors: Sequence[LazyTensor]) -> LazyTensor:
        return slerp(tensors[0], tensors[1], _weight(position, name))

    return _merged([first, second], one)


def add_differences(
    model: Checkpoint, base: Checkpoint, tuned: Sequence[tuple[Checkpoint, Weights]]
) -> MergedModels:
    """Return `model + weight * (tuned - base)`, summed over the tuned ones.

    It carries over to one model what tunings of another have learnt; onto the base itself that is
    `merge_task_arithmetic`.

    Raises:
        ConversionInputError: As `merge_linear`.
    """

    def one(name: str, tensors: Sequence[LazyTensor]) -> LazyTensor:
        weights = [_weight(given, name) for _, given in tuned]
        terms = [(1.0, tensors[0]), (-sum(weights), tensors[1])]
        terms += zip(weights, tensors[2:], strict=True)
        return combine(terms, tensors[0].dtype)

    return _merged([model, base, *(checkpoint for checkpoint, _ in tuned)], one)


def merge_ties(
    base: Checkpoint, tuned: Sequence[tuple[Checkpoint, Weights]], *, density: float = 0.2
) -> MergedModels:
    """Return the base with what several tunings of it have learnt, where they do not contradict.

    Args:
        base: What all were tuned from.
        tuned: With their weights.
        density: Share of the elements of each difference that is kept, above 0 and at most 1.

    Raises:
        ConversionInputError: As `merge_linear`, or the density is no such share.
    """
    how = Sum("largest", _share(density), has_consensus=True, is_normalized=True)
    return _summed(base, tuned, how)


def merge_task_arithmetic(
    base: Checkpoint, tuned: Sequence[tuple[Checkpoint, Weights]]
) -> MergedModels:
    """Return the base with the weighted sum of what several tunings of it have learnt.

    Args:
        base: What all were tuned from.
        tuned: With their weights; a negative one takes away what a tuning has learnt.

    Raises:
        ConversionInputError: As `merge_linear`.
    """
    return _summed(base, tuned, Sum())


def merge_dare(
    base: Checkpoint,
    tuned: Sequence[tuple[Checkpoint, Weights]],
    *,
    density: float = 0.5,
    seed: int = 0,
    consensus: bool = False,
) -> MergedModels:
    """Return the base with a random part of what each tuning has learnt, rescaled.

    Elements of each difference are dropped independently, and the others divided by `density`.
    Which ones depends on nothing but the seed, the model's number, the tensor's name and the
    element's position.

    Args:
        base: What all were tuned from.
        tuned: With their weights.
        density: Probability with which an element is kept, above 0 and at most 1.
        seed: Of the drop.
        consensus: Whether elements whose sign is not that of their sum are left out, as in TIES.

    Raises:
        ConversionInputError: As `merge_ties`.
    """
    return _summed(base, tuned, Sum("random", _share(density), seed, has_consensus=consensus))


def _share(density: float) -> float:
    if not 0 < density <= 1:
        raise ConversionInputError(f"density {density!r} is no share above 0 and at most 1")
    return density


def _summed(
    base: Checkpoint, tuned: Sequence[tuple[Checkpoint, Weights]], how: Sum
) -> MergedModels:
    def one(name: str, tensors: Sequence[LazyTensor]) -> LazyTensor:
        weights = [_weight(given, name) for _, given in tuned]
        terms = list(zip(weights, tensors[1:], strict=True))
        return sum_of_task_vectors(tensors[0], terms, how, name)

    return _merged([base, *(checkpoint for checkpoint, _ in tuned)], one)


def _merged(
    models: Sequence[Checkpoint], merge: Callable[[str, Sequence[LazyTensor]], LazyTensor]
) -> MergedModels:
    first = models[0]
    made: dict[str, LazyTensor] = {}
    missing: list[str] = []
    for name, tensor in first.items():
        if not all(name in other for other in models[1:]):
            missing.append(name)
            made[name] = tensor
        elif tensor.dtype in FLOATS:
            made[name] = merge(name, _checked(name, [model[name] for model in models]))
        else:
            made[name] = _same(name, [model[name] for model in models])
    extra = dict.fromkeys(name for other in models[1:] for name in other if name not in first)
    return MergedModels(made, tuple(missing), tuple(extra))


def _checked(name: str, tensors: Sequence[LazyTensor]) -> Sequence[LazyTensor]:
    for tensor in tensors:
        if tensor.shape != tensors[0].shape or tensor.dtype not in FLOATS:
            raise ConversionInputError(
                f"{name!r} is {_told(tensors[0])} in the first model and {_told(tensor)} in "
                "another: merge "
                "models of one architecture, before they are quantised",
                tensor=name,
            )
    return tensors


def _same(name: str, tensors: Sequence[LazyTensor]) -> LazyTensor:
    """Return what is no float, such as a counter, if the models agree on its kind."""
    first = tensors[0]
    is_plain = first.dtype in ("I64", "I32", "BOOL")
    if not is_plain or any((one.shape, one.dtype) != (first.shape, first.dtype) for one in tensors):
        raise ConversionInputError(
            f"tensor {name!r} is {_told(first)}, which cannot be merged: merge what these "
            "were made of, before it is quantised",
            tensor=name,
        )
    return first


def _told(tensor: LazyTensor) -> str:
    return f"{tensor.dtype} of shape {list(tensor.shape)}"


def _weight(weights: Weights, name: str) -> float:
    if not isinstance(weights, Mapping):
        return float(weights)
    for pattern, weight in weights.items():
        if fnmatchcase(name, pattern):
            return float(weight)
    raise ConversionInputError(
        f"no pattern of {list(weights)!r} matches {name!r}: end them with '*'", tensor=name
    )
