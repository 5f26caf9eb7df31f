"""Tensors of which each process has a part: their parts as files, and files as parts of any size.

A file of one process is a safetensors file whose metadata say where in the whole tensor each of
its tensors begins, in the words of torch.distributed.checkpoint: its `HuggingFaceStorageReader`
reads a folder of them, too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.trainer.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Pieces", "is_sharded", "own_parts", "placed_like", "read_parts", "sharded_in"]

_OFFSETS = "DCP_SHARDING_INFO"
_VERSION = {"DCP_VERSION": "1.0", "format": "pt"}
"""Both as torch 2.15 writes them (`torch/distributed/checkpoint/_hf_utils.py`)."""


class Piece(NamedTuple):
    """A part of a tensor."""

    tensor: Any
    offsets: tuple[int, ...]
    """Where in the whole it begins."""


class Pieces:
    """A tensor that is kept in parts; nothing is read until a region is asked for."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = list(pieces)
        first = self._pieces[0].tensor
        self.dtype = first.dtype
        ends = [
            [offset + size for offset, size in zip(one.offsets, one.tensor.shape, strict=True)]
            for one in self._pieces
        ]
        self.shape = tuple(max(sizes) for sizes in zip(*ends, strict=True))

    def region(self, offsets: Sequence[int], sizes: Sequence[int], device: Any) -> Any:
        """Return a part of the whole, in memory of its own."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        region = torch.empty(tuple(sizes), dtype=self.dtype, device=device)
        for tensor, begin in self._pieces:
            into, out_of = [], []
            for start, size, first, length in zip(offsets, sizes, begin, tensor.shape, strict=True):
                low, high = max(start, first), min(start + size, first + length)
                into.append(slice(low - start, max(high, low) - start))
                out_of.append(slice(low - first, max(high, low) - first))
            region[tuple(into)] = tensor[tuple(out_of)].to(device)
        return region


def is_sharded(tensor: Any) -> bool:
    """Tell whether a tensor is a `DTensor`."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def sharded_in(tensors: Iterable[Any]) -> bool:
    """Tell whether one of the tensors is."""
    return any(is_sharded(tensor) for tensor in tensors)


def own_parts(
    tensors: Mapping[str, Any], *, is_first: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what of some tensors this process has to write, and the file's metadata.

    Args:
        tensors: Those that are whole are written by the first process.
        is_first: Whether this is that.

    Raises:
        CheckpointError: A tensor is a sum that was not made yet.
    """
    parts: dict[str, Any] = {}
    offsets: dict[str, dict[str, list[int]]] = {}
    for name, tensor in tensors.items():
        piece = _own_piece(name, tensor) if is_sharded(tensor) else None
        if piece is None and (is_sharded(tensor) or not is_first):
            continue
        part, begin = piece or Piece(tensor, (0,) * len(tensor.shape))
        parts[name] = part
        offsets[name] = {"saved_offsets": list(begin)}
    return parts, {**_VERSION, _OFFSETS: msgspec.json.encode(offsets).decode()}


def _own_piece(name: str, tensor: Any) -> Piece | None:
    """Return this process's part; None if it has none, or another one has the same."""
    if any(one.is_partial() for one in tensor.placements):
        raise CheckpointError(
            f"tensor {name!r} is a sum over processes that was not made yet: redistribute it "
            "before a checkpoint",
            path=name,
        )
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_replicate() and tensor.device_mesh.get_local_rank(dimension) != 0:
            return None
    chunk = tensor.__create_chunk_list__()[0]
    local = tensor.to_local()
    if not local.numel() and any(chunk.offsets):
        return None
    return Piece(local, tuple(chunk.offsets))


def read_parts(folder: str) -> dict[str, Pieces]:
    """Return the tensors of a folder of files, which may be mapped.

    Raises:
        CheckpointError: A file does not say where its tensors begin.
    """
    from gen_worker.models.reader import read_files

    names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
    pieces: dict[str, list[Piece]] = {}
    for read in read_files([os.path.join(folder, name) for name in names]):
        try:
            offsets = msgspec.json.decode(
                read.header.metadata.get(_OFFSETS, ""), type=dict[str, dict[str, tuple[int, ...]]]
            )
            for name, tensor in read.tensors.items():
                pieces.setdefault(name, []).append(Piece(tensor, offsets[name]["saved_offsets"]))
        except (msgspec.MsgspecError, KeyError) as error:
            raise CheckpointError(
                f"{read.path!r} does not say which parts of its tensors it has", path=read.path
            ) from error
    return {name: Pieces(one) for name, one in pieces.items()}


def placed_like(kept: Any, like: Any, device: Any) -> Any:
    """Return a kept tensor in memory of its own, in parts where another one is.

    Args:
        kept: A tensor, or `Pieces`.
        like: A tensor, sharded or not; None makes it whole.
        device: Where it goes if it is whole.
    """
    pieces = kept if isinstance(kept, Pieces) else Pieces([Piece(kept, (0,) * len(kept.shape))])
    if not is_sharded(like):
        return pieces.region((0,) * len(pieces.shape), pieces.shape, device)
    from torch.distributed.tensor import (  # type: ignore[import-not-found,unused-ignore]
        DTensor,
        Replicate,
    )

    local = like.to_local()
    if tuple(like.shape) != pieces.shape:  # such as factors of a moment: whole in each process
        whole = pieces.region((0,) * len(pieces.shape), pieces.shape, local.device)
        everywhere = [Replicate()] * like.device_mesh.ndim
        return DTensor.from_local(whole, like.device_mesh, everywhere, run_check=False)
    chunk = like.__create_chunk_list__()[0]
    region = pieces.region(chunk.offsets, chunk.sizes, local.device)
    return DTensor.from_local(
        region,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
