"""GGUF files of any size, in one piece or split: heads first, then tensor by tensor."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.container import (
    MAX_NAME_BYTES,
    Number,
    TensorEntry,
    gguf_header,
)
from gen_worker.conversion.gguf.packing import PackedTensor
from gen_worker.conversion.lazy.gguf_file import RawBlocks
from gen_worker.conversion.writer.files import PlannedFile, refuse_others, write_files
from gen_worker.conversion.writer.output_file import output_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.gguf.container import Value
    from gen_worker.conversion.lazy import LazyTensor
    from gen_worker.conversion.writer.journal import Journal
    from gen_worker.conversion.writer.nonfinite import NonFinite
    from gen_worker.conversion.writer.output_file import WrittenFile

__all__ = ["WrittenGguf", "entry_of", "write_gguf"]

_SUFFIX = ".gguf"
_UINT16, _INT32 = 2, 5


class WrittenGguf(NamedTuple):
    """What came of one model."""

    files: tuple[WrittenFile, ...]
    """A loader is given the first."""
    nonfinite: Mapping[str, NonFinite]
    """Of the source's values, by name of the tensor, only where there are any."""
    resumed: int
    """How many of the files an earlier, unfinished run had written."""

    @property
    def path(self) -> str:
        return self.files[0].path


def write_gguf(
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, Value],
    path: str | os.PathLike[str],
    *,
    split_max_bytes: int = 0,
    max_name_bytes: int = MAX_NAME_BYTES,
    journal: Journal | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_file: Callable[[WrittenFile], None] | None = None,
    token: CancelToken | None = None,
) -> WrittenGguf:
    """Write a model; blocks. The same model gives the same bytes, every time.

    Memory, threads, failures and resuming are as of `write_safetensors`.

    Args:
        tensors: By name, in the order in which they are written; see `packed`.
        metadata: By key; the keys `split.*` are added where they belong.
        path: Ends with `.gguf`. Split files are called `<path>-00001-of-0000N.gguf`, and the first
            one has the metadata, as those of llama.cpp.
        split_max_bytes: Of tensors in one file; a larger tensor gets a file of its own. 0 writes
            one file.
        max_name_bytes: Of a tensor; llama.cpp reads no longer ones than by default.
        journal: Of this output alone. The caller removes it once it needs no second try.
        progress: Called in this thread with the bytes written and to write; it may raise.
        on_file: Called in this thread with each finished file, also with those of an earlier run.
        token: Ends the work between two slabs.

    Raises:
        ConversionInputError: A tensor cannot be in such a file, or other files of this name are in
            the way.
        OutputSpaceError: The disk has no room; checked before the first byte, too.
        ConversionError: A file cannot be written.
        DamagedFileError: A source changed meanwhile.
        CanceledError: The token was canceled.
    """
    directory, stem = _place(path)
    groups = _groups(tensors, split_max_bytes)
    files = [
        _planned(os.path.join(directory, name), group, facts, max_name_bytes)
        for name, group, facts in zip(
            _names(stem, len(groups)), groups, _metadata(metadata, groups), strict=True
        )
    ]
    taken = re.compile(rf"{re.escape(stem)}(-\d{{5}}-of-\d{{5}})?\{_SUFFIX}")
    with output_directory(directory):
        refuse_others(directory, {file.name for file in files}, taken)
        made = write_files(files, journal=journal, progress=progress, on_file=on_file, token=token)
    return WrittenGguf(made.files, made.nonfinite, len(made.resumed))


def entry_of(tensor: LazyTensor) -> TensorEntry:
    """Return what a file's head says of a tensor."""
    if isinstance(tensor, PackedTensor):
        return tensor.entry
    if isinstance(tensor, RawBlocks):
        return TensorEntry(tensor.type_name, tensor.unpacked.shape or (1,))
    return TensorEntry(tensor.dtype, tensor.shape or (1,))


def _place(path: str | os.PathLike[str]) -> tuple[str, str]:
    directory, name = os.path.split(os.path.abspath(os.fspath(path)))
    if not name.endswith(_SUFFIX) or name == _SUFFIX:
        raise ConversionInputError(
            f"{os.fspath(path)!r} is no name for a GGUF file: let it end with {_SUFFIX!r}",
            file=os.fspath(path),
        )
    return directory, name.removesuffix(_SUFFIX)


def _groups(tensors: Mapping[str, LazyTensor], most_bytes: int) -> list[dict[str, LazyTensor]]:
    groups: list[dict[str, LazyTensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if most_bytes > 0 and groups[-1] and filled + tensor.size_bytes > most_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = tensor
        filled += tensor.size_bytes
    return groups


def _names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}{_SUFFIX}"]
    return [f"{stem}-{number:05d}-of-{count:05d}{_SUFFIX}" for number in range(1, count + 1)]


def _metadata(
    metadata: Mapping[str, Value], groups: list[dict[str, LazyTensor]]
) -> list[dict[str, Value]]:
    if len(groups) == 1:
        return [dict(metadata)]
    total = Number(_INT32, sum(map(len, groups)))
    return [
        {
            **({} if number else metadata),
            "split.no": Number(_UINT16, number),
            "split.count": Number(_UINT16, len(groups)),
            "split.tensors.count": total,
        }
        for number in range(len(groups))
    ]


def _planned(
    path: str,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, Value],
    max_name_bytes: int,
) -> PlannedFile:
    entries = {name: entry_of(tensor) for name, tensor in tensors.items()}
    header = gguf_header(metadata, entries, max_name_bytes=max_name_bytes)
    return PlannedFile(path, header.content, tensors, header.padding_bytes)
