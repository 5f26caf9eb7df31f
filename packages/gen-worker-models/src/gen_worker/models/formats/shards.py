"""The index of a model in several safetensors files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.formats.damage import DamagedIndexError
from gen_worker.models.formats.headers import Header, read_header
from gen_worker.models.formats.plain_files import open_plain, read_exactly
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ShardedIndex", "read_index"]

_MAX_INDEX_BYTES = 100_000_000
_REMEDY = "fetch the model again, with all of its files"


class ShardedIndex(NamedTuple):
    """Which file each tensor is in; every file was opened and holds what it should."""

    shards: Mapping[str, Header]
    """Headers by path, in the order of the paths."""
    weight_map: Mapping[str, str]
    """Path of its file by the name of a tensor."""

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(header.size_bytes - header.data_start for header in self.shards.values())


class _Index(msgspec.Struct, gc=False):
    weight_map: dict[str, str]
    metadata: dict[str, Any] | None = None


def read_index(path: str) -> ShardedIndex:
    """Read `*.safetensors.index.json` and the headers of the files it names.

    A tensor that is in a file but not in the index is left out, as the libraries do.

    Raises:
        OSError: The index cannot be opened.
        DamagedFileError: The index or a shard is malformed, a shard is missing, or it lacks a
            tensor; all missing ones are named together.
        UnsafeFileFormat: A shard is no safetensors file.
    """
    weight_map = _weight_map(path)
    files = _files(path, weight_map)
    absent = [name for name, file in files.items() if not os.path.isfile(file)]
    if absent:
        raise DamagedIndexError(
            path,
            "shard_missing",
            f"{_listed(absent)} of its {len(files)} files are not there",
            expected=tuple(files),
            actual=tuple(absent),
            remedy=_REMEDY,
        )
    shards = {file: read_header(file) for _, file in sorted(files.items())}
    lost = [name for name, shard in weight_map.items() if name not in shards[files[shard]].tensors]
    if lost:
        raise DamagedIndexError(
            path,
            "shard_tensors",
            f"{_listed(lost)} are not in the files that it names for them",
            actual=tuple(lost),
            remedy=_REMEDY,
        )
    return ShardedIndex(shards, {name: files[shard] for name, shard in weight_map.items()})


def _weight_map(path: str) -> dict[str, str]:
    with open_plain(path) as (descriptor, size_bytes):
        if size_bytes > _MAX_INDEX_BYTES:
            raise DamagedIndexError(
                path,
                "header_size",
                f"it has {size_bytes} bytes, at most {_MAX_INDEX_BYTES} are allowed",
                expected=_MAX_INDEX_BYTES,
                actual=size_bytes,
            )
        text = read_exactly(descriptor, size_bytes, 0)
    try:
        weight_map = msgspec.json.decode(text, type=_Index).weight_map
    except (ValueError, RecursionError) as error:
        raise DamagedIndexError(path, "header_syntax", f"it cannot be read, {error}") from error
    if not weight_map:
        raise DamagedIndexError(path, "header_count", "its weight_map is empty")
    return weight_map


def _files(path: str, weight_map: Mapping[str, str]) -> dict[str, str]:
    """Return the path of each shard by the name in the index."""
    files: dict[str, str] = {}
    for name in dict.fromkeys(weight_map.values()):
        try:
            files[name] = safe_join(os.path.dirname(path), name)
        except ValidationError as error:
            raise DamagedIndexError(path, "shard_path", f"{error}", actual=name) from error
        if not name.endswith(".safetensors"):
            raise DamagedIndexError(
                path,
                "shard_path",
                f"it names {name!r:.200}, no safetensors file",
                expected="*.safetensors",
                actual=name,
                remedy="convert the weights to safetensors",
            )
    return files


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"{name!r:.200}" for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
