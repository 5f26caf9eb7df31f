"""From files to recipes: which files hold the weights of a component, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from gen_worker.conversion.lazy.stored import StoredTensor, WeightsFile, unreadable
from gen_worker.conversion.lazy.weight_sets import weight_set_of
from gen_worker.conversion.links import Home
from gen_worker.errors import WorkerError
from gen_worker.models.formats import DamagedIndexError, assert_loadable, read_header, read_index

if TYPE_CHECKING:
    from gen_worker.conversion.lazy.tensor import LazyTensor

__all__ = ["OpenCheckpoint", "open_checkpoint"]

_INDEX = ".json"


class OpenCheckpoint(Mapping[str, "LazyTensor"]):
    """The weights in some files, in the order of the files and of their bytes."""

    def __init__(
        self,
        tensors: Mapping[str, LazyTensor],
        *,
        files: Sequence[str],
        metadata: Mapping[str, str],
    ) -> None:
        self._tensors = tensors
        self.files = tuple(files)
        """Paths of the files with weights, without indexes."""
        self.metadata = metadata
        """Of all headers; where two say different things, the first counts."""

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def open_checkpoint(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, variant: str | None = None
) -> OpenCheckpoint:
    """Read and check the headers of weights; no tensor is read.

    Args:
        path: A safetensors or GGUF file, or the first of a split one; an index of safetensors
            files, the directory of a component, or several files. Of a directory, its index says
            which files count; without one, all of its safetensors files do.
        variant: Of a directory that has several: such as `fp16` in `model.fp16.safetensors`, or
            empty for the files without one. By default those, else the most precise ones.

    Raises:
        UnreadableSourceError: A file cannot be opened.
        DamagedFileError: A file is damaged, an index names a missing file or tensor, or two files
            have the same tensor.
        UnsafeFileFormat: There are weights, and only in formats that can run code.
        OutsideLinkError: A file of a directory is a link that leads out of the model's folder.
        ConversionInputError: There are no weights of this variant.
    """
    try:
        if not isinstance(path, (str, os.PathLike)):
            return _joined([os.fspath(file) for file in path])
        return _opened(os.fspath(path), variant)
    except OSError as error:
        if isinstance(error, WorkerError):
            raise
        raise unreadable(str(path), error) from error


def _opened(place: str, variant: str | None) -> OpenCheckpoint:
    if os.path.isdir(place):
        found = weight_set_of(place, variant)
        folder = Home(place)
        for file in filter(None, (found.index_path, *found.files)):
            folder.refuse_outside(file)
        return _indexed(found.index_path) if found.index_path else _joined(found.files)
    if place.lower().endswith(".gguf"):
        from gen_worker.conversion.lazy.gguf_file import gguf_parts

        return _joined(gguf_parts(place))
    return _indexed(place) if place.endswith(_INDEX) else _joined([place])


def _indexed(path: str) -> OpenCheckpoint:
    """Return what an index names; each tensor from the file it names for it."""
    index, folder = read_index(path), Home(os.path.dirname(path))
    for shard in index.shards:
        folder.refuse_outside(shard)
    tensors: dict[str, LazyTensor] = {}
    metadata: dict[str, str] = {}
    for shard, header in index.shards.items():
        file = WeightsFile.at(shard)
        for name, info in header.tensors.items():
            home = index.weight_map.get(name)
            if home not in (None, shard):
                raise _duplicate(shard, name, home or "")
            if home == shard:
                tensors[name] = StoredTensor.of(file, info, header.data_start)
        metadata = {**header.metadata, **metadata}
    return OpenCheckpoint(tensors, files=tuple(index.shards), metadata=metadata)


def _joined(paths: Sequence[str]) -> OpenCheckpoint:
    tensors: dict[str, LazyTensor] = {}
    homes: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for path in paths:
        assert_loadable(path)
        found, facts = _file(path)
        for name in found:
            if name in tensors:
                raise _duplicate(path, name, homes[name])
            homes[name] = path
        tensors |= found
        metadata = {**facts, **metadata}
    return OpenCheckpoint(tensors, files=paths, metadata=metadata)


def _file(path: str) -> tuple[dict[str, LazyTensor], Mapping[str, str]]:
    if path.lower().endswith(".gguf"):
        from gen_worker.conversion.lazy.gguf_file import gguf_tensors

        return gguf_tensors(path), {}
    file, header = WeightsFile.at(path), read_header(path)
    tensors: dict[str, LazyTensor] = {
        name: StoredTensor.of(file, info, header.data_start)
        for name, info in header.tensors.items()
    }
    return tensors, header.metadata


def _duplicate(path: str, name: str, other: str) -> DamagedIndexError:
    return DamagedIndexError(
        path,
        "duplicate",
        f"its tensor {name!r:.200} is in {os.path.basename(other)!r}, too",
        actual=name,
        remedy="remove the file that does not belong to the model, or name the files to read",
    )
