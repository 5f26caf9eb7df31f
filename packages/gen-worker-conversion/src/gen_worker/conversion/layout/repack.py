"""Components of a pipeline as one checkpoint, and one checkpoint as components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.layout.flux import flux_moves
from gen_worker.conversion.layout.moves import Moved, to_diffusers, to_original
from gen_worker.conversion.layout.sd3 import sd3_moves
from gen_worker.conversion.layout.text_encoders import (
    clip_moves,
    open_clip_moves,
    t5_moves,
    with_both_embeddings,
    with_one_embedding,
)
from gen_worker.conversion.layout.unet import unet_moves
from gen_worker.conversion.layout.vae import vae_moves, with_current_names
from gen_worker.conversion.lazy import computed
from gen_worker.conversion.lazy.dtypes import torch_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.conversion.layout.families import Layout, Part
    from gen_worker.conversion.layout.moves import Fused, Move
    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = ["Unpacked", "moves_of", "pack", "parts_in", "unpack"]

_TEXT = "text_model"


class Unpacked(NamedTuple):
    """A single file as components."""

    components: dict[str, dict[str, LazyTensor]]
    extra: tuple[str, ...]
    """Names of tensors that no component has a place for, as the file has them."""
    missing: tuple[str, ...]
    """Names, or beginnings of names, that should have been in the file."""


def pack(
    layout: Layout,
    components: Mapping[str, Checkpoint],
    configs: Mapping[str, Mapping[str, Any]],
) -> Moved:
    """Return the components of a pipeline under the names of a single file.

    Args:
        layout: Of the file.
        components: By name of their folder; those that are not there are left out.
        configs: The `config.json` of each.

    Raises:
        ConversionInputError: Of several tensors that are one in the file, some are missing.
    """
    tensors: dict[str, LazyTensor] = {}
    extra: list[str] = []
    missing: list[str] = []
    for part in layout.every:
        if part.component not in components:
            continue
        checkpoint = components[part.component]
        if part.kind == "vae":
            checkpoint = with_current_names(checkpoint)
        elif part.kind == "t5":
            checkpoint = with_both_embeddings(checkpoint)
        config = configs[part.component]
        moved = to_original(checkpoint, moves_of(part, config, _text_prefix(checkpoint)))
        tensors |= {part.prefixes[0] + name: one for name, one in moved.tensors.items()}
        extra += [f"{part.component}/{name}" for name in moved.extra]
        missing += [part.prefixes[0] + name for name in moved.missing]
    return Moved(tensors, tuple(extra), tuple(missing))


def unpack(
    layout: Layout,
    checkpoint: Checkpoint,
    configs: Mapping[str, Mapping[str, Any]],
) -> Unpacked:
    """Return the components of a single file under the names of diffusers and transformers.

    Args:
        layout: Of the file.
        checkpoint: All of the file; a denoiser alone may have its names without their prefix.
        configs: The `config.json` of each component that is in the file.
    """
    found, extra = parts_in(layout, checkpoint)
    components: dict[str, dict[str, LazyTensor]] = {}
    missing: list[str] = []
    for part, (prefix, tensors) in found.items():
        if part.kind == "t5":
            tensors = with_one_embedding(tensors)
        moved = to_diffusers(tensors, moves_of(part, configs[part.component], _TEXT))
        components[part.component] = moved.tensors
        words = moved.tensors.get(f"{_TEXT}.embeddings.token_embedding.weight")
        if part.kind == "clip" and part.has_projection and words is not None:
            moved.tensors.setdefault("text_projection.weight", _identity_for(words))
        extra += [prefix + name for name in moved.extra]
        missing += [prefix + name for name in moved.missing]
    return Unpacked(components, tuple(extra), tuple(missing))


def parts_in(
    layout: Layout, checkpoint: Checkpoint
) -> tuple[dict[Part, tuple[str, dict[str, LazyTensor]]], list[str]]:
    """Return the tensors of each part that a file has, without their prefix, and the others' names.

    With each part comes its prefix in this file.
    """
    prefixes = [(prefix, part) for part in layout.every for prefix in part.prefixes]
    if not any(name.startswith(prefix) for name in checkpoint for prefix, _ in prefixes):
        return {layout.denoiser: ("", dict(checkpoint))}, []
    found: dict[Part, tuple[str, dict[str, LazyTensor]]] = {}
    extra: list[str] = []
    for name, tensor in checkpoint.items():
        home = next((one for one in prefixes if name.startswith(one[0])), None)
        if home is None:
            extra.append(name)
            continue
        prefix, part = home
        found.setdefault(part, (prefix, {}))[1][name.removeprefix(prefix)] = tensor
    return found, extra


def moves_of(part: Part, config: Mapping[str, Any], prefix: str) -> Iterable[Move | Fused]:
    """Return the moves of one component.

    Args:
        part: Of the layout.
        config: The component's.
        prefix: Of a CLIP's names on the side of transformers.
    """
    match part.kind:
        case "unet":
            return unet_moves(config)
        case "vae":
            return vae_moves(config)
        case "sd3":
            return sd3_moves(config)
        case "flux":
            return flux_moves(config)
        case "clip":
            return clip_moves(prefix)
        case "open_clip":
            return open_clip_moves(config, prefix, has_projection=part.has_projection)
        case "t5":
            return t5_moves()


def _identity_for(words: LazyTensor) -> LazyTensor:
    """Return the projection that ComfyUI and diffusers take for a CLIP of SD3 without one."""
    width = words.shape[1]

    def rows(start: int, stop: int) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        return torch.eye(width, dtype=torch_dtype(words.dtype))[start:stop]

    return computed(rows, shape=(width, width), dtype=words.dtype, of=())


def _text_prefix(checkpoint: Checkpoint) -> str:
    """Return what the names of a CLIP begin with: transformers 5.6 and later writes nothing."""
    return _TEXT if any(name.startswith(f"{_TEXT}.") for name in checkpoint) else ""
