"""The weights of one component, wherever in its directory they are."""

from __future__ import annotations

import os
from typing import Any

from gen_worker.errors import ValidationError
from gen_worker.models.formats.shards import read_index
from gen_worker.models.formats.unsafe import assert_loadable, assert_safe_weight_format
from gen_worker.models.reader.reading import read_files, read_tensors

__all__ = ["load_state_dict"]

_INDEX = ".safetensors.index.json"
_USUAL = ("model.safetensors", "diffusion_pytorch_model.safetensors")


def load_state_dict(path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Return the tensors of a file, an index of several files, or a directory with either; blocks.

    Args:
        path: Of a `*.safetensors`, a `*.safetensors.index.json`, or a directory of which the index
            or the only weights, by the usual name if there are more, are taken.
        **options: As of `read_files`.

    Raises:
        ValidationError: The directory has no weights or several.
        UnsafeFileFormat: It has weights in unsafe formats only.
        Exception: What `read_files` raises.
    """
    file = os.fspath(path)
    if os.path.isdir(file):
        file = _weights_in(file)
    if file.endswith(_INDEX):
        index = read_index(file)
        read = {part.path: part.tensors for part in read_files(index.shards, **options)}
        places = index.weight_map.items()
        return {name: read[shard][name] for name, shard in places if name in read[shard]}
    assert_loadable(file)
    return read_tensors(file, **options)


def _weights_in(directory: str) -> str:
    names = sorted(os.listdir(directory))
    found = [name for name in names if name.endswith(_INDEX)]
    found = found or [name for name in names if name.endswith(".safetensors")]
    if len(found) > 1:
        usual = {*_USUAL, *(f"{name.removesuffix('.safetensors')}{_INDEX}" for name in _USUAL)}
        found = [name for name in found if name in usual] or found
    if not found:
        assert_safe_weight_format(directory)
    if len(found) != 1:
        listed = ", ".join(map(repr, found[:5])) or "none"
        raise ValidationError(
            f"directory {directory!r} has not one set of safetensors weights but {listed}: name "
            "the file"
        )
    return os.path.join(directory, found[0])
