"""Which tensor of one layout is which of another: a table of moves that is read either way.

One side is the original layout, that of the code a model was published with; the other is that of
diffusers or transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import LazyTensor, concat, permute, reshape, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gen_worker.conversion.lazy import Checkpoint

__all__ = ["Form", "Fused", "Move", "Moved", "to_diffusers", "to_original"]

Form = Literal["same", "convolution", "transposed", "halves_swapped"]
"""How the original differs: a matrix as a convolution of one pixel, a matrix the other way round,
or the first half of its rows after the second."""


class Move(NamedTuple):
    """A module, or one tensor, and what it is called on the other side."""

    original: str
    """A tensor's name, or what comes before the last parts of the names of several."""
    diffusers: str
    form: Form = "same"
    is_optional: bool = False
    """Whether there are models of the family without it."""


class Fused(NamedTuple):
    """A tensor of the original that is several on the other side, one after the other by rows."""

    original: str
    """A tensor's name."""
    diffusers: tuple[str, ...]
    """Tensors' names."""
    sizes: tuple[int, ...] = ()
    """Rows of each; empty when they are equal."""
    is_optional: bool = False


class Moved(NamedTuple):
    """A checkpoint under its other names, and what there was no place for."""

    tensors: dict[str, LazyTensor]
    extra: tuple[str, ...]
    """Names that no move speaks of; their tensors are left out."""
    missing: tuple[str, ...]
    """Names, or beginnings of names, that should have been there."""


def to_diffusers(checkpoint: Checkpoint, moves: Iterable[Move | Fused]) -> Moved:
    """Give the tensors of the original layout the names of diffusers."""
    table = _Table(moves)
    made: dict[str, LazyTensor] = {}
    extra: list[str] = []
    for name, tensor in checkpoint.items():
        fused = table.fused.get(name)
        if fused is not None:
            made.update(_parts(name, tensor, fused))
            continue
        found = table.by_original(name)
        if found is None:
            extra.append(name)
        else:
            made[found.diffusers + name[len(found.original) :]] = _as_matrix(tensor, found.form)
    return Moved(made, tuple(extra), tuple(table.unused(checkpoint)))


def to_original(checkpoint: Checkpoint, moves: Iterable[Move | Fused]) -> Moved:
    """Give the tensors of diffusers the names of the original layout.

    Raises:
        ConversionInputError: Of several tensors that are one there, some are missing.
    """
    table = _Table(moves)
    made: dict[str, LazyTensor] = {}
    extra: list[str] = []
    for name, tensor in checkpoint.items():
        fused = table.part_of.get(name)
        if fused is not None:
            if fused.original not in made:
                made[fused.original] = _joined(checkpoint, fused)
            continue
        found = table.by_diffusers(name)
        if found is None:
            extra.append(name)
        else:
            made[found.original + name[len(found.diffusers) :]] = _as_original(tensor, found.form)
    return Moved(made, tuple(extra), tuple(table.unused(made)))


class _Table:
    def __init__(self, moves: Iterable[Move | Fused]) -> None:
        self.every = list(moves)
        single = [one for one in self.every if isinstance(one, Move)]
        fused = [one for one in self.every if isinstance(one, Fused)]
        self.fused = {one.original: one for one in fused}
        self.part_of = {name: one for one in fused for name in one.diffusers}
        self._original = {one.original: one for one in single}
        self._diffusers = {one.diffusers: one for one in single}

    def by_original(self, name: str) -> Move | None:
        return next((self._original[one] for one in _starts(name) if one in self._original), None)

    def by_diffusers(self, name: str) -> Move | None:
        return next((self._diffusers[one] for one in _starts(name) if one in self._diffusers), None)

    def unused(self, originals: Iterable[str]) -> Iterator[str]:
        """Yield what should be among these names of the original layout, and is not."""
        there = {start for name in originals for start in _starts(name)}
        for move in self.every:
            if not move.is_optional and move.original not in there:
                yield move.original


def _starts(name: str) -> Iterator[str]:
    """Yield a name and what it begins with, the longest first."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        yield ".".join(parts[:count])


def _parts(name: str, tensor: LazyTensor, fused: Fused) -> dict[str, LazyTensor]:
    count = len(fused.diffusers)
    rows = tensor.shape[0]
    sizes: Sequence[int] = fused.sizes or [rows // count] * count
    if sum(sizes) != rows:
        raise ConversionInputError(
            f"the tensor {name!r} has {rows} rows, and is to be split into {list(sizes)}: the "
            "model is of another size or family",
            tensor=name,
        )
    return dict(zip(fused.diffusers, split(tensor, sizes), strict=True))


def _joined(checkpoint: Checkpoint, fused: Fused) -> LazyTensor:
    missing = [name for name in fused.diffusers if name not in checkpoint]
    if missing:
        raise ConversionInputError(
            f"{', '.join(missing)} is missing: it is a part of {fused.original!r}",
            tensor=missing[0],
        )
    return concat([checkpoint[name] for name in fused.diffusers])


def _as_matrix(tensor: LazyTensor, form: Form) -> LazyTensor:
    if form == "convolution" and len(tensor.shape) == 4:
        return reshape(tensor, tensor.shape[:2])
    return _turned(tensor, form)


def _as_original(tensor: LazyTensor, form: Form) -> LazyTensor:
    if form == "convolution" and len(tensor.shape) == 2:
        return reshape(tensor, (*tensor.shape, 1, 1))
    return _turned(tensor, form)


def _turned(tensor: LazyTensor, form: Form) -> LazyTensor:
    """Do what undoes itself."""
    if form == "transposed":
        return permute(tensor, (1, 0))
    if form == "halves_swapped":
        first, second = split(tensor, [tensor.shape[0] // 2] * 2)
        return concat([second, first])
    return tensor
