"""The header of a GGUF file, checked against the file before any tensor is touched.

Each count and length is compared with the bytes that are left before anything is made of it, so
the work is bounded by the file, whatever it claims.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.models.formats.content import HEAD_BYTES, refuse_other_content
from gen_worker.models.formats.damage import DamagedGgufError
from gen_worker.models.formats.gguf_types import ARRAY, BLOCKS, SCALARS, STRING
from gen_worker.models.formats.gguf_window import Window
from gen_worker.models.formats.plain_files import open_plain, read_exactly

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GgufArray", "GgufHeader", "GgufTensor", "read_gguf_header"]

_VERSIONS = (2, 3)
_MAX_FIELDS = 65_536
_MAX_TENSORS = 1_000_000
_MAX_KEY_BYTES = 65_535  # the format's own limit
_MAX_NAME_BYTES = 1024  # llama.cpp: 63
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_DEPTH = 4  # arrays of arrays
_MAX_KEPT_ITEMS = 1024
_MAX_ITEMS = 4_000_000
"""Of one array of texts; the largest vocabularies have some 300,000."""
_MAX_ELEMENTS = 2**63 - 1
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_MAX_PADDING_BYTES = 65_536


class GgufArray(NamedTuple):
    """An array of the metadata."""

    type_id: int
    length: int
    values: tuple[Any, ...] | None
    """None when there are over 1,024, such as a vocabulary; they were checked and skipped."""


class GgufTensor(NamedTuple):
    """One tensor; its bytes are inside the file."""

    type_name: str
    """Such as `Q4_K`: a name of `GGMLQuantizationType`."""
    shape: tuple[int, ...]
    """As in the file: the dimension whose elements lie side by side is the first."""
    start: int
    """First byte, counted from the header's `data_start`."""
    end: int


class GgufHeader(NamedTuple):
    """What a GGUF file holds."""

    version: int
    metadata: Mapping[str, Any]
    """Numbers, booleans, texts and `GgufArray`s by key."""
    tensors: Mapping[str, GgufTensor]
    alignment: int
    data_start: int
    size_bytes: int
    """Of the whole file."""


def read_gguf_header(path: str) -> GgufHeader:
    """Read and check the header of a GGUF file, version 2 or 3; the tensors are not read.

    Raises:
        OSError: The file cannot be opened.
        DamagedFileError: It is no sound GGUF file.
        UnsafeFileFormat: It is a pickle or an archive under another name.
    """
    with open_plain(path) as (descriptor, size_bytes):
        refuse_other_content(path, read_exactly(descriptor, HEAD_BYTES, 0), "gguf")
        window = Window(descriptor, size_bytes, path)
        version = _version(window)
        tensor_count, field_count = window.number(8), window.number(8)
        window.check_count(tensor_count, 24, _MAX_TENSORS, "tensors")
        window.check_count(field_count, 13, _MAX_FIELDS, "metadata fields")
        metadata = _metadata(window, field_count)
        infos = _tensor_infos(window, tensor_count)
    alignment = _alignment(metadata, path)
    data_start = -(-window.position // alignment) * alignment
    tensors = _placed(infos, alignment, size_bytes - data_start, path)
    _check_rest(tensors, size_bytes - data_start, alignment, path)
    return GgufHeader(version, metadata, tensors, alignment, data_start, size_bytes)


def _version(window: Window) -> int:
    magic, version = window.take(4), window.number(4)
    if magic != b"GGUF":
        raise DamagedGgufError(
            window.path,
            "wrong_format",
            f"it starts with {magic!r}, a GGUF file with b'GGUF'",
            expected=b"GGUF",
            actual=magic,
        )
    if version not in _VERSIONS:
        big_endian = " (a big-endian file)" if version and version & 0xFFFF == 0 else ""
        raise DamagedGgufError(
            window.path,
            "version",
            f"it has the version {version}{big_endian}, 2 and 3 are read",
            expected=_VERSIONS,
            actual=version,
            remedy="convert it again with a current llama.cpp, little-endian",
        )
    return version


def _metadata(window: Window, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = window.text(_MAX_KEY_BYTES, "a key")
        if key in metadata:
            raise DamagedGgufError(
                window.path, "duplicate", f"its metadata has {key!r:.200} twice", actual=key
            )
        metadata[key] = _value(window, window.number(4), 0)
    return metadata


def _value(window: Window, type_id: int, depth: int) -> Any:
    if type_id == STRING:
        return window.text(None, "a text")
    if type_id == ARRAY:
        return _array(window, depth + 1)
    scalar = SCALARS.get(type_id)
    if scalar is None:
        raise _type_error(window, type_id)
    (value,) = scalar.unpack(window.take(scalar.size))
    return value


def _type_error(window: Window, type_id: int) -> DamagedGgufError:
    return DamagedGgufError(
        window.path,
        "metadata",
        f"its metadata has a value of the type {type_id}, 0 to 12 are known",
        expected=tuple(range(13)),
        actual=type_id,
    )


def _array(window: Window, depth: int) -> GgufArray:
    if depth > _MAX_DEPTH:
        raise DamagedGgufError(
            window.path,
            "metadata",
            f"its metadata has arrays nested deeper than {_MAX_DEPTH} levels",
            expected=_MAX_DEPTH,
            actual=depth,
        )
    type_id, count = window.number(4), window.number(8)
    scalar = SCALARS.get(type_id)
    if scalar is None and type_id not in (STRING, ARRAY):
        raise _type_error(window, type_id)
    least = scalar.size if scalar else {STRING: 8, ARRAY: 12}[type_id]
    window.check_count(count, least, None if scalar else _MAX_ITEMS, "items of an array")
    if count <= _MAX_KEPT_ITEMS:
        values = tuple(_value(window, type_id, depth) for _ in range(count))
        return GgufArray(type_id, count, values)
    if scalar:
        window.skip(count * scalar.size)
    elif type_id == STRING:
        window.skip_texts(count)
    else:
        for _ in range(count):
            _array(window, depth + 1)
    return GgufArray(type_id, count, None)


class _Info(NamedTuple):
    type_id: int
    shape: tuple[int, ...]
    offset: int


def _tensor_infos(window: Window, count: int) -> dict[str, _Info]:
    infos: dict[str, _Info] = {}
    for _ in range(count):
        name = window.text(_MAX_NAME_BYTES, "a tensor's name")
        if name in infos:
            raise DamagedGgufError(
                window.path, "duplicate", f"it has the tensor {name!r:.200} twice", actual=name
            )
        dimensions = window.number(4)
        if not dimensions <= _MAX_DIMENSIONS:
            raise DamagedGgufError(
                window.path,
                "tensor_shape",
                f"tensor {name!r:.200} has {dimensions} dimensions, at most {_MAX_DIMENSIONS} are "
                "allowed",
                expected=_MAX_DIMENSIONS,
                actual=dimensions,
            )
        shape = tuple(window.number(8) for _ in range(dimensions))
        infos[name] = _Info(window.number(4), shape, window.number(8))
    return infos


def _alignment(metadata: Mapping[str, Any], path: str) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(value) is not int or not 0 < value <= _MAX_ALIGNMENT or value & (value - 1):
        raise DamagedGgufError(
            path,
            "metadata",
            f"its general.alignment is {value!r:.100}, not a power of two up to {_MAX_ALIGNMENT}",
            expected=_DEFAULT_ALIGNMENT,
            actual=value,
        )
    return value


def _placed(
    infos: Mapping[str, _Info], alignment: int, available: int, path: str
) -> dict[str, GgufTensor]:
    """Check that the tensors lie one after another and inside the file."""
    tensors: dict[str, GgufTensor] = {}
    position, last = 0, ""
    for name, info in sorted(infos.items(), key=lambda item: item[1].offset):
        size = _size_bytes(name, info, path)
        if info.offset % alignment or info.offset < position:
            problem = (
                f"overlaps {last!r:.200}, which ends at {position}"
                if info.offset < position
                else f"is not aligned to {alignment}"
            )
            raise DamagedGgufError(
                path,
                "tensor_offsets",
                f"tensor {name!r:.200} at {info.offset} {problem}",
                expected=position,
                actual=info.offset,
            )
        position, last = info.offset + size, name
        if position > available:
            raise DamagedGgufError(
                path,
                "truncated",
                f"tensor {name!r:.200} ends at {position}, the file has {max(available, 0)} bytes "
                "for all tensors",
                expected=position,
                actual=available,
            )
        tensors[name] = GgufTensor(BLOCKS[info.type_id].name, info.shape, info.offset, position)
    return tensors


def _check_rest(
    tensors: Mapping[str, GgufTensor], available: int, alignment: int, path: str
) -> None:
    end = max((tensor.end for tensor in tensors.values()), default=0)
    if available - end > max(alignment, _MAX_PADDING_BYTES):
        raise DamagedGgufError(
            path,
            "oversized",
            f"it goes on for {available - end} bytes after its last tensor",
            expected=end,
            actual=available,
        )


def _size_bytes(name: str, info: _Info, path: str) -> int:
    block = BLOCKS.get(info.type_id)
    if block is None:
        raise DamagedGgufError(
            path,
            "tensor_dtype",
            f"tensor {name!r:.200} has the type {info.type_id}, which is not known",
            expected=tuple(BLOCKS),
            actual=info.type_id,
            remedy="use a type that llama.cpp still has, or a newer gen-worker",
        )
    elements = math.prod(info.shape)
    row = info.shape[0] if info.shape else 1
    bytes_ = elements // block.elements * block.size_bytes
    if row % block.elements or not 0 <= max(elements, bytes_, *info.shape, 0) <= _MAX_ELEMENTS:
        raise DamagedGgufError(
            path,
            "tensor_shape",
            f"tensor {name!r:.200} of {block.name} has the shape {list(info.shape)!r}: rows are "
            f"multiples of {block.elements} elements",
            expected=block.elements,
            actual=info.shape,
        )
    return bytes_
