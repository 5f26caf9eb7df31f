"""A checkpoint written as safetensors files: planned first, then slab by slab, each file whole."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.conversion.errors import ConversionImplementationError, ConversionInputError
from gen_worker.conversion.lazy.stored import bytes_of
from gen_worker.conversion.lazy.tensor import slabs
from gen_worker.conversion.writer.journal import FinishedFile, is_as_recorded
from gen_worker.conversion.writer.nonfinite import NonFinite, count_nonfinite
from gen_worker.conversion.writer.output_file import (
    OutputFile,
    WrittenFile,
    check_space,
    remove_parts,
)
from gen_worker.conversion.writer.pipeline import pump
from gen_worker.conversion.writer.shards import (
    MAX_SAFETENSORS_SHARD_BYTES,
    SafetensorsShardPlan,
    TensorFacts,
    build_safetensors_index,
    file_order,
    header_bytes,
    plan_safetensors_shards,
)
from gen_worker.models.reader.tensors import dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor
    from gen_worker.conversion.writer.journal import Journal

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
    os.makedirs(place, exist_ok=True)
    _refuse_others(place, prefix, plan)
    shards = [
        _Shard(os.path.join(place, name), checkpoint, plan, {"format": "pt", **(metadata or {})})
        for name in plan.shard_names
    ]
    recorded = journal.begin(_fingerprint(shards)) if journal is not None else {}
    finished = {
        shard.name: recorded[shard.name]
        for shard in shards
        if shard.name in recorded and is_as_recorded(recorded[shard.name], shard.path)
    }
    check_space(place, sum(shard.size_bytes for shard in shards if shard.name not in finished))
    return _Run(shards, plan, finished, journal, progress, on_file, token).run()


class _Shard:
    """One file of the plan."""

    def __init__(
        self,
        path: str,
        checkpoint: Checkpoint,
        plan: SafetensorsShardPlan,
        metadata: Mapping[str, str],
    ) -> None:
        self.path = path
        self.name = os.path.basename(path)
        facts = {
            name: TensorFacts(checkpoint[name].dtype, checkpoint[name].shape)
            for name, file in plan.weight_map.items()
            if file == self.name
        }
        order = file_order(facts)
        self.tensors = {name: checkpoint[name] for name in order}
        self.header = header_bytes({name: facts[name] for name in order}, metadata)
        self.size_bytes = len(self.header) + plan.shard_sizes[self.name]

    def jobs(self) -> Iterator[tuple[int, Callable[[], _Slab]]]:
        for name, tensor in self.tensors.items():
            # In one dimension a slab is as small as it should be, whatever the shape.
            cut = tensor.flat() if tensor.is_elementwise else tensor
            for start, stop in slabs(cut):
                cost = (stop - start) * cut.row_cost_bytes
                yield cost, partial(_made, name, cut, start, stop)


class _Slab(NamedTuple):
    name: str
    tensor: Any
    """Keeps the memory of `data`."""
    data: memoryview
    nonfinite: NonFinite


def _made(name: str, recipe: LazyTensor, start: int, stop: int) -> _Slab:
    """Do one slab's work; in a thread of the pump."""
    made = recipe.rows(start, stop).contiguous()
    data = bytes_of(made)
    if made.dtype != dtype_of(recipe.dtype) or len(data) != (stop - start) * recipe.row_bytes:
        raise ConversionImplementationError(
            f"rows {start} to {stop} of tensor {name!r} are {list(made.shape)} of {made.dtype}: "
            f"{recipe!r} promised others",
            tensor=name,
            step="convert",
        )
    return _Slab(name, made, data, count_nonfinite(made, recipe.dtype))


class _Run:
    """The writing of one plan, file by file."""

    def __init__(
        self,
        shards: list[_Shard],
        plan: SafetensorsShardPlan,
        finished: Mapping[str, FinishedFile],
        journal: Journal | None,
        progress: Callable[[int, int], None] | None,
        on_file: Callable[[WrittenFile], None] | None,
        token: CancelToken | None,
    ) -> None:
        self.shards = shards
        self.plan = plan
        self.finished = finished
        self.journal = journal
        self.progress = progress
        self.on_file = on_file
        self.token = token
        self.total_bytes = sum(shard.size_bytes for shard in shards)
        self.done_bytes = 0
        self.nonfinite: dict[str, NonFinite] = {}

    def run(self) -> Written:
        files: list[WrittenFile] = []
        try:
            for shard in self.shards:
                entry = self.finished.get(shard.name)
                files.append(self._take(shard, entry) if entry else self._write(shard))
                self._tell(files[-1])
            index = self._write_index() if self.plan.is_sharded else None
        except BaseException:
            if self.journal is None:
                for file in files:
                    os.unlink(file.path)
            raise
        return Written(tuple(files), index, self.nonfinite, self.plan, len(self.finished))

    def _take(self, shard: _Shard, entry: FinishedFile) -> WrittenFile:
        found = msgspec.json.decode(entry.facts, type=dict[str, NonFinite])
        self.nonfinite |= found
        self._advance(entry.size_bytes)
        return WrittenFile(shard.path, entry.size_bytes, entry.blake3)

    def _write(self, shard: _Shard) -> WrittenFile:
        if self.journal is not None:  # nobody else writes what it names
            remove_parts(os.path.dirname(shard.path), shard.name)
        counts: dict[str, NonFinite] = {}
        with OutputFile(shard.path) as file:

            def use(slab: _Slab) -> None:
                file.write(slab.data)
                if any(slab.nonfinite):
                    counts[slab.name] = counts.get(slab.name, NonFinite(0, 0)) + slab.nonfinite
                self._advance(len(slab.data))

            file.write(shard.header)
            self._advance(len(shard.header))
            pump(shard.jobs(), use, token=self.token)
            written = file.finish()
        if self.journal is not None:
            self.journal.add(written, counts)
        self.nonfinite |= counts
        return written

    def _write_index(self) -> WrittenFile:
        import json

        first = self.shards[0]
        prefix = first.name.rpartition("-00001-of-")[0]
        path = os.path.join(os.path.dirname(first.path), f"{prefix}.safetensors.index.json")
        with OutputFile(path) as file:
            file.write(json.dumps(build_safetensors_index(self.plan), indent=2).encode() + b"\n")
            index = file.finish()
        self._tell(index)
        return index

    def _advance(self, size_bytes: int) -> None:
        self.done_bytes += size_bytes
        if self.progress is not None:
            self.progress(self.done_bytes, self.total_bytes)

    def _tell(self, file: WrittenFile) -> None:
        if self.on_file is not None:
            self.on_file(file)


def _fingerprint(shards: list[_Shard]) -> str:
    """Return what a journal recognises the same output from the same files by."""
    from blake3 import blake3

    digest = blake3()
    paths: set[str] = set()
    for shard in shards:
        digest.update(shard.name.encode() + shard.header)
        for tensor in shard.tensors.values():
            digest.update(msgspec.json.encode(tensor.sources))
            paths.update(extent.path for extent in tensor.sources)
    for path in sorted(paths):
        facts = os.stat(path)
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return str(digest.hexdigest())


def _refuse_others(directory: str, prefix: str, plan: SafetensorsShardPlan) -> None:
    """Refuse a directory with weights of another run: a loader would take them together."""
    index = f"{prefix}.safetensors.index.json"
    ours = {*plan.shard_names, *([index] if plan.is_sharded else [])}
    others = sorted(
        name
        for name in os.listdir(directory)
        if (name == index or (name.startswith(prefix) and name.endswith(".safetensors")))
        and name not in ours
    )
    if others:
        raise ConversionInputError(
            f"{directory!r} has {others[0]!r}, which the new weights do not replace: remove it, "
            "or choose an empty directory",
            file=os.path.join(directory, others[0]),
        )
