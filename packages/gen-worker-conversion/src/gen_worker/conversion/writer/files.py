"""Planned files written one after the other: a head, then tensors slab by slab, each file whole."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.conversion.errors import (
    ConversionImplementationError,
    ConversionInputError,
    naming_tensor,
)
from gen_worker.conversion.lazy.stored import WeightsFile, bytes_of
from gen_worker.conversion.lazy.tensor import slabs
from gen_worker.conversion.writer.journal import FinishedFile, is_as_recorded
from gen_worker.conversion.writer.nonfinite import NonFinite, counted_rows
from gen_worker.conversion.writer.output_file import (
    OutputFile,
    WrittenFile,
    check_space,
    remove_parts,
)
from gen_worker.conversion.writer.pipeline import pump
from gen_worker.models.reader.tensors import dtype_of

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.lazy.tensor import LazyTensor
    from gen_worker.conversion.writer.journal import Journal

__all__ = ["FilesWritten", "PlannedFile", "refuse_others", "write_files"]


class PlannedFile(NamedTuple):
    """One file, whose size is known before a byte of its tensors is read."""

    path: str
    head: bytes
    """What comes before the tensors; all of a file without any."""
    tensors: Mapping[str, LazyTensor]
    """In the order in which they are written."""
    padding_bytes: Mapping[str, int]
    """Zeros after a tensor, where there are any."""

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def size_bytes(self) -> int:
        content = sum(tensor.size_bytes for tensor in self.tensors.values())
        return len(self.head) + content + sum(self.padding_bytes.values())

    def jobs(self) -> Iterator[tuple[int, Callable[[], _Slab]]]:
        for name, tensor in self.tensors.items():
            # In one dimension a slab is as small as it should be, whatever the shape.
            cut = tensor.flat() if tensor.is_elementwise else tensor
            for start, stop in slabs(cut):
                cost = (stop - start) * cut.row_cost_bytes
                padding = self.padding_bytes.get(name, 0) if stop == cut.row_count else 0
                yield cost, partial(_made, name, cut, start, stop, padding)


class FilesWritten(NamedTuple):
    """What came of planned files."""

    files: tuple[WrittenFile, ...]
    nonfinite: Mapping[str, NonFinite]
    """By name of the tensor, only where there are any."""
    resumed: Collection[str]
    """Names of the files that an earlier, unfinished run had written."""


def write_files(
    files: Sequence[PlannedFile],
    *,
    journal: Journal | None,
    progress: Callable[[int, int], None] | None,
    on_file: Callable[[WrittenFile], None] | None,
    token: CancelToken | None,
) -> FilesWritten:
    """Write files of one directory, which exists; blocks.

    See `write_safetensors` for what the arguments do and what is promised and raised.
    """
    recorded = journal.begin(_fingerprint(files)) if journal is not None else {}
    finished = {
        file.name: recorded[file.name]
        for file in files
        if file.name in recorded and is_as_recorded(recorded[file.name], file.path)
    }
    needed = sum(file.size_bytes for file in files if file.name not in finished)
    check_space(os.path.dirname(files[0].path), needed)
    return _Run(files, finished, journal, progress, on_file, token).run()


def refuse_others(directory: str, ours: Collection[str], belongs: re.Pattern[str]) -> None:
    """Refuse a directory with files of another run: a loader would take them together.

    Args:
        directory: Where the files go.
        ours: Names that are written anyway.
        belongs: What a loader would take, too.
    """
    others = sorted(
        name for name in os.listdir(directory) if belongs.fullmatch(name) and name not in ours
    )
    if others:
        raise ConversionInputError(
            f"{directory!r} has {others[0]!r}, which the new weights do not replace: remove it, "
            "or choose an empty directory",
            file=os.path.join(directory, others[0]),
        )


class _Slab(NamedTuple):
    name: str
    tensor: Any
    """Keeps the memory of `data`."""
    data: memoryview
    nonfinite: NonFinite
    padding_bytes: int


def _made(name: str, recipe: LazyTensor, start: int, stop: int, padding_bytes: int) -> _Slab:
    """Do one slab's work; in a thread of the pump."""
    with naming_tensor(name):
        made, nonfinite = counted_rows(recipe, start, stop)
    data = bytes_of(made)
    if made.dtype != dtype_of(recipe.dtype) or len(data) != (stop - start) * recipe.row_bytes:
        raise ConversionImplementationError(
            f"rows {start} to {stop} of tensor {name!r} are {list(made.shape)} of {made.dtype}: "
            f"{recipe!r} promised others",
            tensor=name,
            step="convert",
        )
    return _Slab(name, made, data, nonfinite, padding_bytes)


class _Run:
    """The writing of one plan, file by file."""

    def __init__(
        self,
        files: Sequence[PlannedFile],
        finished: Mapping[str, FinishedFile],
        journal: Journal | None,
        progress: Callable[[int, int], None] | None,
        on_file: Callable[[WrittenFile], None] | None,
        token: CancelToken | None,
    ) -> None:
        self.files = files
        self.finished = finished
        self.journal = journal
        self.progress = progress
        self.on_file = on_file
        self.token = token
        self.total_bytes = sum(file.size_bytes for file in files)
        self.done_bytes = 0
        self.nonfinite: dict[str, NonFinite] = {}

    def run(self) -> FilesWritten:
        made: list[WrittenFile] = []
        try:
            for file in self.files:
                entry = self.finished.get(file.name)
                made.append(self._take(file, entry) if entry else self._write(file))
                if self.on_file is not None:
                    self.on_file(made[-1])
        except BaseException:
            if self.journal is None:
                for written in made:
                    os.unlink(written.path)
            raise
        return FilesWritten(tuple(made), self.nonfinite, frozenset(self.finished))

    def _take(self, file: PlannedFile, entry: FinishedFile) -> WrittenFile:
        found = msgspec.json.decode(entry.facts, type=dict[str, NonFinite])
        self.nonfinite |= found
        self._advance(entry.size_bytes)
        return WrittenFile(file.path, entry.size_bytes, entry.blake3)

    def _write(self, file: PlannedFile) -> WrittenFile:
        if self.journal is not None:  # nobody else writes what it names
            remove_parts(os.path.dirname(file.path), file.name)
        counts: dict[str, NonFinite] = {}
        with OutputFile(file.path) as output:

            def use(slab: _Slab) -> None:
                output.write(slab.data)
                if slab.padding_bytes:
                    output.write(bytes(slab.padding_bytes))
                if any(slab.nonfinite):
                    counts[slab.name] = counts.get(slab.name, NonFinite(0, 0)) + slab.nonfinite
                self._advance(len(slab.data) + slab.padding_bytes)

            output.write(file.head)
            self._advance(len(file.head))
            pump(file.jobs(), use, token=self.token)
            written = output.finish()
        if self.journal is not None:
            self.journal.add(written, counts)
        self.nonfinite |= counts
        return written

    def _advance(self, size_bytes: int) -> None:
        self.done_bytes += size_bytes
        if self.progress is not None:
            self.progress(self.done_bytes, self.total_bytes)


def _fingerprint(files: Sequence[PlannedFile]) -> str:
    """Return what a journal recognises the same output from the same files by."""
    from blake3 import blake3

    digest = blake3()
    paths: set[str] = set()
    for file in files:
        digest.update(file.name.encode() + file.head)
        for tensor in file.tensors.values():
            digest.update(msgspec.json.encode(tensor.sources))
            paths.update(extent.path for extent in tensor.sources)
    for path in sorted(paths):
        facts = WeightsFile.at(path)
        digest.update(f"{path}\0{facts.size_bytes}\0{facts.mtime_ns}\n".encode())
    return str(digest.hexdigest())
