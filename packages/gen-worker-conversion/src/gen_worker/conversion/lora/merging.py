"""Adapters merged into the weights they are for, row by row."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import cast, low_rank, open_checkpoint
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.lora.dora import merged_dora
from gen_worker.conversion.lora.reading import open_adapter
from gen_worker.conversion.new_folder import new_folder
from gen_worker.conversion.side_files import copy_side_files
from gen_worker.conversion.writer import MAX_SAFETENSORS_SHARD_BYTES, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.lazy import Checkpoint, LazyTensor
    from gen_worker.conversion.lora.adapter import Adapter, LowRank

__all__ = [
    "Merged",
    "merge_adapters",
    "merge_lora",
    "merged_components",
    "no_component",
    "open_adapters",
]

_TEXT = "text_model."
_SHOWN = 8


class Merged(NamedTuple):
    """A checkpoint with adapters in it."""

    tensors: dict[str, LazyTensor]
    unused: tuple[str, ...]
    """Modules of the adapters that the checkpoint does not have."""


def merge_adapters(
    checkpoint: Checkpoint,
    adapters: Iterable[tuple[Mapping[str, LowRank], float]],
    *,
    in_float32: bool = False,
) -> Merged:
    """Return `weight + strength * alpha / rank * up @ down` for each module of each adapter.

    That of a DoRA is as `merged_dora` says.

    Computed in float32 and rounded once for each adapter; a row is made when it is asked for.

    Args:
        checkpoint: Of one component, with the names of diffusers or transformers.
        adapters: The modules for that component, and the strength of each adapter.
        in_float32: Whether changed weights stay float32, for a cast to round them once.

    Raises:
        ConversionInputError: Shapes differ, or a weight is quantised.
    """
    made = dict(checkpoint)
    unused: list[str] = []
    for layers, strength in adapters:
        for module, layer in layers.items():
            name = _name_in(checkpoint, module)
            if name is None:
                unused.append(module)
                continue
            if made[name].dtype not in FLOATS:
                raise ConversionInputError(
                    f"{name!r} is quantised ({made[name].dtype}): merge into the model it was made "
                    "from, and quantise the result",
                    tensor=name,
                )
            weight = cast(made[name], "F32") if in_float32 else made[name]
            try:
                made[name] = _merged(weight, layer, strength)
            except ConversionInputError as error:
                raise _misfit(name, weight, layer) from error
    return Merged(made, tuple(unused))


def _merged(weight: LazyTensor, layer: LowRank, strength: float) -> LazyTensor:
    if layer.magnitude is not None:
        return merged_dora(weight, layer, strength)
    return low_rank(weight, layer.up, layer.down, strength * layer.scale)


def _misfit(name: str, weight: LazyTensor, layer: LowRank) -> ConversionInputError:
    update = [*layer.up.shape[:1], *layer.down.shape[1:]]
    return ConversionInputError(
        f"{name!r} has the shape {list(weight.shape)}, and the update of it in the LoRA {update}: "
        "check that they are of one family",
        tensor=name,
        step="merge",
    )


def merge_lora(
    directory: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    adapters: Sequence[tuple[str | os.PathLike[str], float]],
    *,
    component: str = "",
    max_shard_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
    token: CancelToken | None = None,
) -> tuple[str, ...]:
    """Write a model with adapters merged into it; blocks. What they do not change is copied.

    Args:
        directory: A pipeline of diffusers, or a model of transformers.
        output_dir: Absent or empty.
        adapters: Each with its strength.
        component: Of a pipeline: whose the adapters of peft are.
        max_shard_bytes: Of tensors in one file.
        token: Ends the work between two slabs.

    Returns:
        The components that were changed; the empty name for a model of transformers.

    Raises:
        ConversionInputError: An adapter changes what the model does not have, or has tensors that
            are no update of low rank: the result would not be the model with the adapter.
    """
    root = os.fspath(directory)
    opened = open_adapters(adapters, component=component)
    merged = merged_components(root, opened, lambda name: _checkpoint(root, name))
    names = tuple(merged)
    with new_folder(output_dir) as target:
        for name, one in merged.items():
            is_model = name == "" or name.startswith("text_encoder")
            place = os.path.join(target, name) if name else target
            write_safetensors(
                one.tensors,
                place,
                prefix="model" if is_model else "diffusion_pytorch_model",
                max_shard_bytes=max_shard_bytes,
                token=token,
            )
            if name:
                copy_side_files(os.path.join(root, name), place)
        copy_side_files(root, target, skip=names)
    return names


def open_adapters(
    adapters: Sequence[tuple[str | os.PathLike[str], float]], *, component: str = ""
) -> list[tuple[Adapter, float]]:
    """Open adapters that are to be merged.

    Raises:
        ConversionInputError: One has tensors that are no update of low rank.
    """
    opened = [(open_adapter(path, component=component), weight) for path, weight in adapters]
    for (path, _), (adapter, _) in zip(adapters, opened, strict=True):
        _refuse(os.fspath(path), adapter.unknown, "are no updates of low rank")
    return opened


def merged_components(
    root: str,
    adapters: Sequence[tuple[Adapter, float]],
    open_component: Callable[[str], Checkpoint],
    *,
    in_float32: bool = False,
) -> dict[str, Merged]:
    """Return the components that adapters change, by name.

    Args:
        root: Of the model, for messages.
        adapters: Each with its strength.
        open_component: Gives the weights of one.
        in_float32: See `merge_adapters`.

    Raises:
        ConversionInputError: The model lacks a component or a module of theirs.
    """
    merged: dict[str, Merged] = {}
    for name in sorted({name for adapter, _ in adapters for name in adapter.layers}):
        ours = [(one.layers[name], weight) for one, weight in adapters if name in one.layers]
        made = merge_adapters(open_component(name), ours, in_float32=in_float32)
        place = os.path.join(root, name) if name else root
        _refuse(
            place,
            made.unused,
            "are in an adapter and not in the model: check that they are of one family",
        )
        merged[name] = made
    return merged


def _checkpoint(root: str, name: str) -> Checkpoint:
    place = os.path.join(root, name) if name else root
    if not os.path.isdir(place):
        raise no_component(root, name)
    return open_checkpoint(place)


def no_component(root: str, name: str) -> ConversionInputError:
    """Return why an adapter does not fit a model."""
    return ConversionInputError(
        f"{root!r} has no component {name!r}, which an adapter changes: check that they are "
        "of one family",
        file=root,
    )


def _name_in(checkpoint: Checkpoint, module: str) -> str | None:
    """Return the weight of a module; transformers 5.6 and later says a CLIP's without a prefix."""
    names = (f"{module}.weight", f"{module.removeprefix(_TEXT)}.weight")
    return next((name for name in names if name in checkpoint), None)


def _refuse(place: str, names: Sequence[str], what: str) -> None:
    if names:
        shown = ", ".join(names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ConversionInputError(f"{place!r}: {shown}{more} {what}", file=place, tensor=names[0])
