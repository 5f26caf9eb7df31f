"""What a tuned model has learnt as an adapter: the difference of two models at a low rank."""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import combine, open_checkpoint, slabs
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.lora.adapter import Adapter, LowRank
from gen_worker.conversion.lora.factoring import RankChoice, Recent, factored
from gen_worker.conversion.lora.reading import text_module
from gen_worker.conversion.lora.singular_values import decomposed
from gen_worker.conversion.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.conversion.lazy import Checkpoint, LazyTensor
    from gen_worker.conversion.lora.factoring import Decomposed

__all__ = ["Extracted", "extract_adapter", "extract_layers"]

_WEIGHT = ".weight"
_COUNTERS = ("I64", "I32", "BOOL")
"""Dtypes of what is no weight."""
_EMBEDDING = re.compile(r"(?:^|\.)(?:\w*embeddings?|embed_tokens|wte|wpe|shared)\.weight$")
"""Tables of rows, which formats of LoRAs have another form for."""


class Extracted(NamedTuple):
    """What came of the differences of one component."""

    layers: dict[str, LowRank]
    """Of the modules that differ, by name."""
    left_out: tuple[str, ...]
    """Tensors that differ and are no weights of a linear layer or a convolution."""


def extract_layers(
    base: Checkpoint,
    tuned: Checkpoint,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "F32",
) -> Extracted:
    """Return `tuned - base` as updates of low rank, with alpha as the rank; blocks.

    Each pair of tensors is compared slab by slab when this is called. When a side is read, the
    singular values take one difference at a time: 1.7 times its size in float32 for ranks like 64
    of 4096, 2.7 for an eighth of its smaller side, 7.4 above; see `singular_values.decomposed`. A
    choice by energy looks at all values before, which takes 2.1 times the size.

    Args:
        base: Of one component.
        tuned: Of the same component.
        rank: At most so many for each module.
        energy: As few as hold this share of the sum of squared singular values.
        dtype: Of the new tensors, `F32`, `F16` or `BF16`.

    Raises:
        ConversionInputError: A tensor is missing on one side, has another shape, or is quantised;
            neither rank nor energy is given; or, when a side is read, a value is not finite.
    """
    choice, recent = RankChoice(rank, energy), Recent()
    layers: dict[str, LowRank] = {}
    left_out: list[str] = []
    for name in dict.fromkeys((*base, *tuned)):
        first, second = _pair(name, base, tuned)
        if not _differ(first, second):
            continue
        if len(first.shape) < 2 or not name.endswith(_WEIGHT) or _EMBEDDING.search(name):
            left_out.append(name)
            continue
        largest = min(first.row_count, first.row_elements)
        found = choice.of(largest, partial(_values, name, first, second))
        layers[name.removesuffix(_WEIGHT)] = factored(
            name,
            found,
            partial(_decomposed, name, first, second, found),
            recent,
            down_shape=first.shape[1:],
            rows=first.row_count,
            dtype=dtype,
            of=(first, second),
            scale=1.0,
        )
    return Extracted(layers, tuple(left_out))


def extract_adapter(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "F32",
    components: Sequence[str] = (),
) -> tuple[Adapter, tuple[str, ...]]:
    """Return what a tuned model has learnt, and the tensors that differ and are not in it; blocks.

    `write_adapter` writes it.

    Args:
        base: A pipeline of diffusers, or a model of transformers.
        tuned: Of the same architecture.
        rank: As of `extract_layers`.
        energy: Likewise.
        dtype: Likewise.
        components: Of a pipeline; by default its denoiser and its text encoders.

    Raises:
        ConversionInputError: As `extract_layers`, or nothing differs that an adapter can say.
    """
    layers: dict[str, dict[str, LowRank]] = {}
    left_out: list[str] = []
    for name in components or _components(base):
        places = [os.path.join(os.fspath(path), name) for path in (base, tuned)]
        found = extract_layers(
            open_checkpoint(places[0]),
            open_checkpoint(places[1]),
            rank=rank,
            energy=energy,
            dtype=dtype,
        )
        if found.layers:
            layers[name] = {text_module(name, key): one for key, one in found.layers.items()}
        left_out += [f"{name}/{one}" if name else one for one in found.left_out]
    if not layers:
        raise ConversionInputError(
            f"{os.fspath(tuned)!r} differs from {os.fspath(base)!r} in no linear layer and no "
            "convolution: there is nothing to extract",
            file=os.fspath(tuned),
        )
    return Adapter(layers), tuple(left_out)


def _components(base: str | os.PathLike[str]) -> list[str]:
    source = Source(base)
    if source.file_layout != "diffusers":
        return [""]
    starts = ("unet", "transformer", "text_encoder")
    names = [n for n, part in source.components.items() if part.holds_weights]
    return [name for name in names if name.startswith(starts)]


def _pair(name: str, base: Checkpoint, tuned: Checkpoint) -> tuple[LazyTensor, LazyTensor]:
    if name not in base or name not in tuned:
        raise ConversionInputError(
            f"only one of the models has {name!r}: give two of one architecture", tensor=name
        )
    first, second = base[name], tuned[name]
    kinds = {"float" if one.dtype in FLOATS else one.dtype for one in (first, second)}
    if first.shape != second.shape or len(kinds) > 1 or not kinds <= {"float", *_COUNTERS}:
        raise ConversionInputError(
            f"{name!r} is {first!r} in the base and {second!r} in the other: give two models of "
            "one architecture, before they are quantised",
            tensor=name,
        )
    return first, second


def _differ(first: LazyTensor, second: LazyTensor) -> bool:
    return any(
        not first.rows(start, stop).double().equal(second.rows(start, stop).double())
        for start, stop in slabs(_pair_of(first, second))
    )


def _pair_of(first: LazyTensor, second: LazyTensor) -> LazyTensor:
    """Return a tensor whose slabs hold both."""
    return combine([(1.0, first), (1.0, second)], "F32")


def _change(name: str, first: LazyTensor, second: LazyTensor) -> Any:
    """Return `second - first` as a matrix in float32, made slab by slab."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    change: Any = torch.empty(first.row_count, first.row_elements)
    for start, stop in slabs(_pair_of(first, second)):
        rows = change[start:stop].view(stop - start, *first.shape[1:])
        rows.copy_(second.rows(start, stop)).sub_(first.rows(start, stop).float())
    if not bool(torch.isfinite(change.sum())):
        raise ConversionInputError(
            f"{name!r} differs by values that are no finite numbers: look for NaN or infinite "
            "weights in both models",
            tensor=name,
        )
    return change


def _values(name: str, first: LazyTensor, second: LazyTensor) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    return torch.linalg.svdvals(_change(name, first, second))


def _decomposed(name: str, first: LazyTensor, second: LazyTensor, rank: int) -> Decomposed:
    return decomposed(_change(name, first, second), rank)
