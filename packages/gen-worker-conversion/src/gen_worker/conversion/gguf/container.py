"""The head of a GGUF file, version 3: what is said of the model, and where its tensors are."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.models.formats.gguf_types import ARRAY, BLOCKS, SCALARS, STRING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "ALIGNMENT",
    "MAX_NAME_BYTES",
    "Header",
    "Number",
    "Numbers",
    "TensorEntry",
    "Value",
    "gguf_header",
    "packed_bytes",
]

ALIGNMENT = 32
"""Of each tensor in the file, in bytes; readers take this unless the metadata say otherwise."""

MAX_NAME_BYTES = 63
"""Of a tensor: GGML_MAX_NAME of llama.cpp, without the end of the text."""

_VERSION = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _UINT64, _INT64 = 4, 5, 6, 7, 10, 11
_MAX_DIMENSIONS = 4
_TYPES = {block.name: number for number, block in BLOCKS.items()}


class Number(NamedTuple):
    """A number of a certain type, where the usual one will not do."""

    type_id: int
    """Of the format: 2 is an unsigned integer of 16 bits, for one."""
    value: float


class Numbers(NamedTuple):
    """An array of numbers of a certain type, where the usual one will not do."""

    type_id: int
    values: Sequence[float]


Value: TypeAlias = (
    "bool | int | float | str | Number | Numbers | Sequence[bool | int | float | str]"
)
"""What may be said of a model; whole numbers take 32 bits if they can."""


class TensorEntry(NamedTuple):
    """A tensor of the file."""

    type_name: str
    """Such as `Q4_K`."""
    shape: tuple[int, ...]
    """As torch has it; the file has it the other way round."""

    @property
    def size_bytes(self) -> int:
        return packed_bytes(self.type_name, math.prod(self.shape))


class Header(NamedTuple):
    """Everything before the first tensor, and the gaps between them."""

    content: bytes
    padding_bytes: Mapping[str, int]
    """Zeros after each tensor."""
    size_bytes: int
    """Of the whole file."""


def packed_bytes(type_name: str, elements: int) -> int:
    """Return what so many elements take.

    Raises:
        KeyError: There is no such type.
    """
    block = BLOCKS[_TYPES[type_name]]
    return elements // block.elements * block.size_bytes


def gguf_header(
    metadata: Mapping[str, Value],
    tensors: Mapping[str, TensorEntry],
    *,
    max_name_bytes: int = MAX_NAME_BYTES,
) -> Header:
    """Plan a file.

    Args:
        metadata: By key.
        tensors: By name, in the order in which they are written.
        max_name_bytes: Of a tensor; llama.cpp reads no longer ones than by default.

    Raises:
        ConversionInputError: A tensor cannot be in such a file.
    """
    for name, entry in tensors.items():
        _check(name, entry, max_name_bytes)
    head = b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))
    fields = b"".join(_field(key, value) for key, value in metadata.items())
    offset = 0
    padding: dict[str, int] = {}
    infos: list[bytes] = []
    for name, entry in tensors.items():
        sizes = struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *reversed(entry.shape))
        infos.append(_text(name) + sizes + struct.pack("<IQ", _TYPES[entry.type_name], offset))
        padding[name] = -entry.size_bytes % ALIGNMENT
        offset += entry.size_bytes + padding[name]
    content = head + fields + b"".join(infos)
    content += bytes(-len(content) % ALIGNMENT)
    return Header(content, padding, len(content) + offset)


def _check(name: str, entry: TensorEntry, max_name_bytes: int) -> None:
    if len(name.encode()) > max_name_bytes:
        raise ConversionInputError(
            f"the tensor {name!r} cannot be in a GGUF file: names have at most {max_name_bytes} "
            "bytes there",
            tensor=name,
        )
    if len(entry.shape) > _MAX_DIMENSIONS:
        raise ConversionInputError(
            f"the tensor {name!r} has {len(entry.shape)} dimensions, in a GGUF file it may have "
            f"{_MAX_DIMENSIONS}: reshape it",
            tensor=name,
        )
    if entry.type_name not in _TYPES:
        raise ConversionInputError(
            f"the tensor {name!r} is of {entry.type_name}, which a GGUF file cannot hold: leave it "
            "out, or cast it",
            tensor=name,
        )
    if math.prod(entry.shape) == 0:
        raise ConversionInputError(
            f"the tensor {name!r} has no elements, its shape is {list(entry.shape)!r}: a GGUF file "
            "cannot hold it, leave it out",
            tensor=name,
        )
    block = BLOCKS[_TYPES[entry.type_name]]
    width = entry.shape[-1] if entry.shape else 1
    if width % block.elements:
        raise ConversionInputError(
            f"the tensor {name!r} has rows of {width} elements, and {block.name} packs "
            f"{block.elements} at a time: choose another type for it",
            tensor=name,
        )


def _field(key: str, value: Value) -> bytes:
    try:
        return _text(key) + _typed(value)
    except (struct.error, ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise ConversionInputError(
            f"{key!r} of a GGUF file cannot be {value!r:.100} ({error}): take the configuration "
            "that belongs to the model",
            step="gguf",
        ) from error


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _typed(value: Value) -> bytes:
    if isinstance(value, Number):
        return struct.pack("<I", value.type_id) + SCALARS[value.type_id].pack(value.value)
    if isinstance(value, Numbers):
        return struct.pack("<I", ARRAY) + _numbers(value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, (bool, int, float)):
        number = _usual(value)
        return struct.pack("<I", number.type_id) + SCALARS[number.type_id].pack(number.value)
    return struct.pack("<I", ARRAY) + _array(value)


def _usual(value: bool | float) -> Number:
    if isinstance(value, bool):
        return Number(_BOOL, value)
    if isinstance(value, float):
        return Number(_FLOAT32, value)
    if value < 0:
        return Number(_INT32 if value >= -(1 << 31) else _INT64, value)
    return Number(_UINT32 if value < 1 << 32 else _UINT64, value)


def _array(values: Sequence[bool | float | str]) -> bytes:
    """Return an array of one type, which the first item decides; whole numbers are signed."""
    head = struct.pack("<Q", len(values))
    if values and isinstance(values[0], str):
        return struct.pack("<I", STRING) + head + b"".join(_text(str(one)) for one in values)
    type_id = _INT32
    if values and isinstance(values[0], bool):
        type_id = _BOOL
    elif values and isinstance(values[0], float):
        type_id = _FLOAT32
    return _numbers(Numbers(type_id, cast("Sequence[float]", values)))


def _numbers(array: Numbers) -> bytes:
    letter, count = SCALARS[array.type_id].format[-1], len(array.values)
    return struct.pack(f"<IQ{count}{letter}", array.type_id, count, *array.values)
