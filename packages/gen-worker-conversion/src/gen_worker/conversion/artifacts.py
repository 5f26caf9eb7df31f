"""What conversions hand back: stored files of weights, and what is said about them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.types import Tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.context import ConversionContext

__all__ = [
    "ConversionArtifact",
    "ConversionOutput",
    "IngestResult",
    "persist_safetensors_output",
    "tensors_with",
]


class ConversionArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """A further file of an output."""

    path: str
    """Relative to the output, such as `config.json`."""
    tensors: Tensors


class ConversionOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One converted or imported model."""

    weights: Tensors
    """The single file, or the index of several."""
    metadata: dict[str, Any] = {}
    additional_artifacts: list[ConversionArtifact] = []


class IngestResult(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was fetched from elsewhere and lies in a local directory."""

    path: str
    source_ref: str
    revision: str = ""
    metadata: dict[str, Any] = {}


def tensors_with(tensors: Tensors, **changes: Any) -> Tensors:
    """Return a record of stored weights with other values in some of its fields."""
    return msgspec.structs.replace(tensors, **changes)


def persist_safetensors_output(
    ctx: ConversionContext,
    *,
    shard_paths: Sequence[str | os.PathLike[str]],
    index_path: str | os.PathLike[str] | None,
    output_ref: str,
) -> tuple[Tensors, list[ConversionArtifact], dict[str, Any]]:
    """Store the files of a model; blocks.

    Args:
        ctx: The call.
        shard_paths: The weights.
        index_path: None for a single file.
        output_ref: Directory below the call's outputs.

    Returns:
        The primary file (the index, when there is one), the others, and `sharded`, `shard_count`
        and `size_bytes` of all weights.
    """
    paths = [os.fspath(path) for path in shard_paths]
    stored = [_stored(ctx, path, output_ref) for path in paths]
    facts = {
        "sharded": index_path is not None,
        "shard_count": len(paths),
        "size_bytes": sum(os.path.getsize(path) for path in paths),
    }
    if index_path is None:
        return stored[0].tensors, stored[1:], facts
    index = _stored(ctx, os.fspath(index_path), output_ref)
    return index.tensors, stored, facts


def _stored(ctx: ConversionContext, path: str, output_ref: str) -> ConversionArtifact:
    name = os.path.basename(path)
    tensors = ctx.save_checkpoint(f"{output_ref.strip('/')}/{name}", path, "safetensors")
    return ConversionArtifact(path=name, tensors=tensors)
