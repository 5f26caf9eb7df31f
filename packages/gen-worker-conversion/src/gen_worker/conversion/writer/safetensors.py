"""A checkpoint written as safetensors files: planned first, then slab by slab, each file whole."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.writer.files import PlannedFile, refuse_others, write_files
from gen_worker.conversion.writer.output_file import output_directory
from gen_worker.conversion.writer.shards import (
    MAX_SAFETENSORS_SHARD_BYTES,
    SafetensorsShardPlan,
    TensorFacts,
    build_safetensors_index,
    file_order,
    header_bytes,
    plan_safetensors_shards,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.lazy.tensor import Checkpoint
    from gen_worker.conversion.writer.journal import Journal
    from gen_worker.conversion.writer.nonfinite import NonFinite
    from gen_worker.conversion.writer.output_file import WrittenFile

__all__ = ["Written", "write_safetensors"]


class Written(NamedTuple):
    """What came of one checkpoint."""

    files: tuple[WrittenFile, ...]
    """Those with weights, in the order of the plan."""
    index_file: WrittenFile | None
    """None for a single file."""
    nonfinite: Mapping[str, NonFinite]
    """By name of the tensor, only where there are any."""
    plan: SafetensorsShardPlan
    resumed: int
    """How many of the files an earlier, unfinished run had written."""

    @property
    def path(self) -> str:
        """Return what a loader is given: the index, or the single file."""
        return (self.index_file or self.files[0]).path


def write_safetensors(
    checkpoint: Checkpoint,
    directory: str | os.PathLike[str],
    *,
    prefix: str = "model",
    max_shard_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
    journal: Journal | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_file: Callable[[WrittenFile], None] | None = None,
    token: CancelToken | None = None,
) -> Written:
    """Write a checkpoint; blocks. The same checkpoint gives the same bytes, every time.

    Tensors are made slab by slab in other threads while earlier slabs are hashed and written in
    this one, so memory does not grow with the model; a recipe that is whole is in memory as one.
    A file appears under its name when it is complete and on the disk. After a failure nothing is
    left, except what `journal` names: with it, the next call goes on after the last whole file.

    Args:
        checkpoint: Recipes by name.
        directory: Made when absent. It must have no other weights of this prefix.
        prefix: `<prefix>.safetensors`, or `<prefix>-00001-of-0000N.safetensors` and an index.
        max_shard_bytes: Of tensors in one file; a larger tensor gets a file of its own.
        metadata: Of every header; `format` is `pt` unless it says otherwise.
        journal: Of this output alone. The caller removes it once it needs no second try.
        progress: Called in this thread with the bytes written and to write; it may raise.
        on_file: Called in this thread with each finished file, an index last, also with those of
            an earlier run; a file may be published from then on.
        token: Ends the work between two slabs.

    Raises:
        OutputSpaceError: The disk has no room; checked before the first byte, too.
        ConversionError: A file cannot be written, or a recipe breaks its promise.
        DamagedFileError: A source changed meanwhile.
        CanceledError: The token was canceled.
    """
    place = os.path.abspath(os.fspath(directory))
    sizes = {name: tensor.size_bytes for name, tensor in checkpoint.items()}
    plan = plan_safetensors_shards(sizes, max_shard_bytes=max_shard_bytes, shard_prefix=prefix)
    index = f"{prefix}.safetensors.index.json"
    taken = rf"{re.escape(prefix)}.*\.safetensors|{re.escape(index)}"
    files = [
        _planned(os.path.join(place, name), checkpoint, plan, {"format": "pt", **(metadata or {})})
        for name in plan.shard_names
    ]
    if plan.is_sharded:
        files.append(_planned_index(os.path.join(place, index), plan))
    with output_directory(place):
        refuse_others(place, {file.name for file in files}, re.compile(taken, re.DOTALL))
        made = write_files(files, journal=journal, progress=progress, on_file=on_file, token=token)
    count = len(plan.shard_names)
    return Written(
        made.files[:count],
        made.files[count] if plan.is_sharded else None,
        made.nonfinite,
        plan,
        len(set(plan.shard_names) & set(made.resumed)),
    )


def _planned(
    path: str, checkpoint: Checkpoint, plan: SafetensorsShardPlan, metadata: Mapping[str, str]
) -> PlannedFile:
    facts = {
        name: TensorFacts(checkpoint[name].dtype, checkpoint[name].shape)
        for name, file in plan.weight_map.items()
        if file == os.path.basename(path)
    }
    order = file_order(facts)
    head = header_bytes({name: facts[name] for name in order}, metadata)
    return PlannedFile(path, head, {name: checkpoint[name] for name in order}, {})


def _planned_index(path: str, plan: SafetensorsShardPlan) -> PlannedFile:
    import json

    text = json.dumps(build_safetensors_index(plan), indent=2)
    return PlannedFile(path, text.encode() + b"\n", {}, {})
