"""GGUF files as sources: in whole numbers again, or in other types."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.container import Number, Numbers
from gen_worker.conversion.gguf.importance import check_names
from gen_worker.conversion.gguf.mixes import Heads, choose_types
from gen_worker.conversion.gguf.models import GgufPlan, not_weighted, packed_all
from gen_worker.conversion.gguf.packing import PLAIN
from gen_worker.conversion.gguf.tensor_names import gguf_package, renamed_back
from gen_worker.conversion.gguf.types import FileType, file_type
from gen_worker.conversion.gguf.writing import entry_of
from gen_worker.conversion.lazy import cast, open_checkpoint
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.lazy.gguf_file import gguf_parts, raw_gguf_tensors
from gen_worker.models.formats import read_gguf_header
from gen_worker.models.formats.gguf_types import ARRAY, SCALARS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.conversion.gguf.container import Value
    from gen_worker.conversion.gguf.importance import Importance
    from gen_worker.conversion.lazy import Checkpoint, LazyTensor

__all__ = ["plan_gguf_copy", "plan_gguf_file", "transformers_weights", "unpacked"]

_OURS = ("GGUF.", "split.", "general.alignment")
"""Keys that the writer decides about."""
_USUAL = (4, 5, 6, 7, 8)
"""Types of values that are written as they are without saying so."""


def unpacked(path: str | os.PathLike[str], dtype: str = "F32") -> Checkpoint:
    """Return the weights of a GGUF file as numbers, under the names they have there.

    Args:
        path: Of the file, or of the first of split files.
        dtype: Of all floats, as safetensors has it.

    Raises:
        DamagedFileError: A file is damaged.
        ConversionInputError: It is another one of split files, or one is missing.
    """
    found = open_checkpoint(path)
    return {
        name: cast(tensor, dtype) if tensor.dtype in FLOATS else tensor
        for name, tensor in found.items()
    }


def transformers_weights(path: str | os.PathLike[str], dtype: str = "F32") -> Checkpoint:
    """Return the weights of a language model's GGUF file as transformers names and orders them.

    Args:
        path: As of `unpacked`.
        dtype: As of `unpacked`.

    Raises:
        DamagedFileError: A file is damaged.
        GgufSourceError: It is of no architecture that is known, or has a tensor of another.
        ConversionInputError: As of `unpacked`.
    """
    place = os.fspath(path)
    metadata = read_gguf_header(place).metadata
    weights = renamed_back(unpacked(place), metadata, place)
    return {name: cast(tensor, dtype) for name, tensor in weights.items()}


def plan_gguf_file(
    path: str | os.PathLike[str],
    to: str,
    *,
    allow_requantize: bool = False,
    importance: Importance | None = None,
) -> GgufPlan:
    """Plan a GGUF file of another type, with the same metadata.

    Args:
        path: Of a language model: of its file, or of the first of split files.
        to: Type of the new file.
        allow_requantize: Whether weights that are in blocks already may be packed once more, which
            adds one error to the other.
        importance: See `read_importance`.

    Raises:
        ConversionInputError: It has blocks, and they may not be packed again; there is no such
            type; or a file is missing.
        DamagedFileError: A file is damaged.
    """
    place, wanted = os.fspath(path), file_type(to)
    parts = gguf_parts(place)
    if not allow_requantize:
        _refuse_blocks(parts)
    header = read_gguf_header(place)
    kind = str(header.metadata.get("general.architecture", ""))
    tensors = open_checkpoint(place)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    check_names(importance, shapes)
    heads = _heads(header.metadata, kind)
    choice = choose_types(shapes, wanted, heads, has_importance=importance is not None)
    metadata = _metadata(place)
    metadata["general.file_type"] = wanted.number
    if not wanted.is_plain:
        metadata["general.quantization_version"] = 2
    return GgufPlan(
        packed_all(tensors, choice, importance),
        metadata,
        kind,
        wanted,
        choice.types,
        choice.fallbacks,
        (),
        not_weighted(choice, importance),
    )


def plan_gguf_copy(path: str | os.PathLike[str]) -> GgufPlan:
    """Plan a GGUF file with the same tensors, bit by bit: to split one, to join one, to relabel it.

    Args:
        path: As of `plan_gguf_file`; of any kind of model.

    Raises:
        ConversionInputError: A file of a split model is missing.
        DamagedFileError: A file is damaged.
    """
    place = os.fspath(path)
    header = read_gguf_header(place)
    tensors: dict[str, LazyTensor] = {}
    for part in gguf_parts(place):
        tensors |= raw_gguf_tensors(part)
    said = header.metadata.get("general.file_type")
    return GgufPlan(
        tensors,
        _metadata(place),
        str(header.metadata.get("general.architecture", "")),
        FileType("keep", said if isinstance(said, int) else -1, "", ""),
        {name: entry_of(tensor).type_name for name, tensor in tensors.items()},
        (),
        (),
        max_name_bytes=max((len(name.encode()) for name in tensors), default=0),
    )


def _refuse_blocks(parts: Sequence[str]) -> None:
    for part in parts:
        for name, info in read_gguf_header(part).tensors.items():
            if info.type_name not in PLAIN:
                raise ConversionInputError(
                    f"tensor {name!r} of {part!r} is in blocks of {info.type_name}: start from "
                    "the model in full precision, or keep its types (gguf:keep), which splits, "
                    "joins and relabels",
                    file=part,
                    tensor=name,
                )


def _heads(metadata: Mapping[str, Any], architecture: str) -> Heads:
    def said(key: str) -> int:
        value = metadata.get(f"{architecture}.{key}")
        return value if isinstance(value, int) and value > 0 else 0

    queries = said("attention.head_count")
    keys = said("attention.head_count_kv") or queries or 1
    is_shared = queries != keys or architecture == "qwen2"
    is_70b = architecture in ("llama", "qwen2") and is_shared and said("block_count") == 80
    return Heads(queries // keys, is_70b, said("expert_count"))


def _metadata(path: str) -> dict[str, Value]:
    """Return everything that a file says, vocabularies too; its header was checked before."""
    gguf = gguf_package()
    made: dict[str, Value] = {}
    for key, field in gguf.GGUFReader(path).fields.items():
        if key.startswith(_OURS):
            continue
        value = field.contents()
        made[key] = _as_it_was(value, [int(one) for one in field.types])
    return made


def _as_it_was(value: Any, types: Sequence[int]) -> Value:
    """Return a value that is written with the types that it had: of an array, also its items'."""
    if types[0] != ARRAY:
        plain: Value = value if types[0] in _USUAL else Number(types[0], value)
        return plain
    if types[-1] in SCALARS and len(types) == 2:
        return Numbers(types[1], value)
    texts: Value = value
    return texts
