"""Merges of whole models: pipelines of diffusers, models of transformers, single files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lazy.weight_sets import holds_weights
from gen_worker.conversion.merge.methods import merge_by_method
from gen_worker.conversion.new_folder import new_folder
from gen_worker.conversion.side_files import copy_side_files
from gen_worker.conversion.writer import MAX_SAFETENSORS_SHARD_BYTES, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.merge.checkpoints import MergedModels, Weights
    from gen_worker.conversion.merge.methods import MergeMethod

__all__ = ["WrittenMerge", "merge_models"]

_TRANSFORMERS = ("text_encoder", "image_encoder", "safety_checker")


class WrittenMerge(NamedTuple):
    """A merge that was written."""

    components: tuple[str, ...]
    """Those that were merged; the empty name for a model that is one component."""
    missing: tuple[str, ...]
    """Tensors, as `component/name`, that only the first model has: they are as they were."""
    extra: tuple[str, ...]
    """Tensors that only other models have: they are left out."""


def merge_models(
    models: Sequence[tuple[str | os.PathLike[str], Weights]],
    output_dir: str | os.PathLike[str],
    *,
    method: MergeMethod = "linear",
    density: float | None = None,
    seed: int = 0,
    components: Sequence[str] = (),
    max_shard_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
    token: CancelToken | None = None,
) -> WrittenMerge:
    """Write a merge of models of one architecture; blocks.

    Args:
        models: Folders or files, the first of which gives dtypes and all that is no weight, each
            with its weight; see `merge_by_method`.
        output_dir: Absent or empty.
        method: How tensors are joined.
        density: See `merge_by_method`.
        seed: Likewise.
        components: Of a pipeline: which to merge; by default all that every model has. The others
            are those of the first.
        max_shard_bytes: Of tensors in one file.
        token: Ends the work between two slabs.

    Raises:
        ConversionInputError: The models do not fit each other.
    """
    places = [os.fspath(path) for path, _ in models]
    names = list(components) or _components(places)
    pairs = list(zip(places, models, strict=True))
    merged = {
        name: merge_by_method(
            [(open_checkpoint(_at(place, name)), weight) for place, (_, weight) in pairs],
            method,
            density=density,
            seed=seed,
        )
        for name in names
    }
    with new_folder(output_dir) as target:
        for name, result in merged.items():
            _write(result, target, name, max_shard_bytes, token)
            if name:
                copy_side_files(os.path.join(places[0], name), os.path.join(target, name))
        if os.path.isdir(places[0]):
            copy_side_files(places[0], target, skip=names)
    return WrittenMerge(
        tuple(names),
        tuple(_named(name, one) for name, result in merged.items() for one in result.missing),
        tuple(_named(name, one) for name, result in merged.items() for one in result.extra),
    )


def _write(
    result: MergedModels, target: str, name: str, max_shard_bytes: int, token: CancelToken | None
) -> None:
    is_model = not name or name.startswith(_TRANSFORMERS)
    write_safetensors(
        result.tensors,
        os.path.join(target, name) if name else target,
        prefix="model" if is_model else "diffusion_pytorch_model",
        max_shard_bytes=max_shard_bytes,
        token=token,
    )


def _components(places: Sequence[str]) -> list[str]:
    """Return the folders with weights that every model has; the empty name without folders."""
    if not all(os.path.isfile(os.path.join(place, "model_index.json")) for place in places):
        return [""]
    common = set.intersection(*(_with_weights(place) for place in places))
    return sorted(common)


def _with_weights(place: str) -> set[str]:
    return {
        entry.name for entry in os.scandir(place) if entry.is_dir() and holds_weights(entry.path)
    }


def _at(place: str, component: str) -> str:
    return os.path.join(place, component) if component else place


def _named(component: str, name: str) -> str:
    return f"{component}/{name}" if component else name
