"""The header of a safetensors file, checked against the file before any tensor is touched.

Layout: 8 bytes little-endian header size, the header as JSON, then the tensors without gaps up to
the end of the file. The rules are those of the `safetensors` library and some stricter ones: no
key twice, no name that a terminal would act upon.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from gen_worker.models.formats.content import HEAD_BYTES, refuse_other_content
from gen_worker.models.formats.damage import DamagedSafetensorsError
from gen_worker.models.formats.plain_files import open_plain, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["DTYPE_BITS", "MAX_HEADER_BYTES", "Header", "TensorInfo", "header_of", "read_header"]

MAX_HEADER_BYTES = 100_000_000
"""The limit of the `safetensors` library."""

DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits per element of every dtype of safetensors 0.8."""

_METADATA = "__metadata__"
_MAX_ELEMENTS = 2**63 - 1
_MAX_DIMENSIONS = 64  # torch's own limit
_MAX_NAME_CHARS = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class TensorInfo(NamedTuple):
    """One tensor of a header."""

    dtype: str
    """As in the file, such as `BF16`: a key of `DTYPE_BITS`."""
    shape: tuple[int, ...]
    """In elements; of `F4`, two are in each byte."""
    start: int
    """First byte, counted from the header's `data_start`."""
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


class Header(NamedTuple):
    """What a safetensors file holds; every offset is inside the file."""

    tensors: Mapping[str, TensorInfo]
    """By name, in the order of their bytes."""
    metadata: Mapping[str, str]
    data_start: int
    """Offset in the file of the first tensor's first byte."""
    size_bytes: int
    """Of the whole file."""


class _Entry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    dtype: str
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=_MAX_DIMENSIONS)]
    data_offsets: tuple[int, int]


_entries = msgspec.json.Decoder(_Entry)


def read_header(path: str) -> Header:
    """Read and check the header of a safetensors file; the tensors are not read.

    Raises:
        OSError: The file cannot be opened.
        DamagedFileError: It is no sound safetensors file.
        UnsafeFileFormat: It is a pickle or an archive under another name.
    """
    with open_plain(path) as (descriptor, size_bytes):
        return header_of(descriptor, size_bytes, path)


def header_of(descriptor: int, size_bytes: int, path: str) -> Header:
    """Do as `read_header` with a file that is open; `path` is for messages."""
    text = _header_text(descriptor, size_bytes, path)
    entries, metadata = _decoded(text, path)
    tensors = _ordered(entries, path)
    data_start = 8 + len(text)
    _check_end(tensors.values(), size_bytes - data_start, path)
    return Header(tensors, metadata, data_start, size_bytes)


def _header_text(descriptor: int, size_bytes: int, path: str) -> bytes:
    head = read_exactly(descriptor, HEAD_BYTES, 0)
    refuse_other_content(path, head, "safetensors")
    if len(head) < 10:
        raise DamagedSafetensorsError(
            path,
            "truncated",
            f"it has {size_bytes} bytes, a safetensors file has at least 10",
            expected=10,
            actual=size_bytes,
        )
    length = int.from_bytes(head[:8], "little")
    if length < 2 or length > MAX_HEADER_BYTES:
        raise DamagedSafetensorsError(
            path,
            "header_size",
            f"its header claims {length} bytes, 2 to {MAX_HEADER_BYTES} are allowed",
            expected=MAX_HEADER_BYTES,
            actual=length,
        )
    if 8 + length > size_bytes:
        raise DamagedSafetensorsError(
            path,
            "truncated",
            f"its header claims {length} bytes, the file has {size_bytes}",
            expected=8 + length,
            actual=size_bytes,
        )
    text = read_exactly(descriptor, length, 8)
    if len(text) < length:
        raise DamagedSafetensorsError(
            path, "truncated", "it shrank while it was read", expected=length, actual=len(text)
        )
    return text


def _decoded(text: bytes, path: str) -> tuple[dict[str, _Entry], dict[str, str]]:
    if text[:1] != b"{":
        raise _syntax_error(path, f"its header starts with {text[:1]!r}, not with '{{'")
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(raw.pop(_METADATA, b"{}"), type=dict[str, str] | None)
        entries = {name: _entries.decode(entry) for name, entry in raw.items()}
        _refuse_duplicates(text, path)
    # RecursionError: thousands of brackets; ValueError: all of msgspec's, and bad UTF-8.
    except (ValueError, RecursionError) as error:
        raise _syntax_error(path, f"its header cannot be read, {error}") from error
    return entries, metadata or {}


def _refuse_duplicates(text: bytes, path: str) -> None:
    """Refuse a key that is there twice, at any depth; which one counts depends on the reader."""
    import json

    def check(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DamagedSafetensorsError(
                path, "duplicate", f"its header has the key {twice!r:.200} twice", actual=twice
            )

    json.loads(text, object_pairs_hook=check)


def _syntax_error(path: str, problem: str) -> DamagedSafetensorsError:
    return DamagedSafetensorsError(path, "header_syntax", problem)


def _ordered(entries: Mapping[str, _Entry], path: str) -> dict[str, TensorInfo]:
    """Check every tensor and that each begins where the one before it ends."""
    tensors: dict[str, TensorInfo] = {}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        _check_name(name, path)
        start, end = entry.data_offsets
        size = _size_bytes(name, entry, path)
        if start != position or end < start:
            relation = "overlaps the tensor before it" if start < position else "leaves a gap"
            raise DamagedSafetensorsError(
                path,
                "tensor_offsets",
                f"tensor {name!r} lies at {start} to {end} and {relation}, which ends at "
                f"{position}",
                expected=position,
                actual=start,
            )
        if end - start != size:
            raise DamagedSafetensorsError(
                path,
                "tensor_size",
                f"tensor {name!r} has {end - start} bytes, {entry.dtype} of shape "
                f"{list(entry.shape)!r:.200} takes {size}",
                expected=size,
                actual=end - start,
            )
        tensors[name] = TensorInfo(entry.dtype, entry.shape, start, end)
        position = end
    return tensors


def _check_name(name: str, path: str) -> None:
    if len(name) > _MAX_NAME_CHARS or _CONTROL.search(name):
        raise DamagedSafetensorsError(
            path,
            "tensor_name",
            f"the tensor name {name!r:.200} has control characters, or over {_MAX_NAME_CHARS}",
            actual=name,
        )


def _size_bytes(name: str, entry: _Entry, path: str) -> int:
    bits = DTYPE_BITS.get(entry.dtype)
    if bits is None:
        raise DamagedSafetensorsError(
            path,
            "tensor_dtype",
            f"tensor {name!r} has the dtype {entry.dtype!r:.100}, known are "
            f"{', '.join(DTYPE_BITS)}",
            expected=tuple(DTYPE_BITS),
            actual=entry.dtype,
        )
    sizes = entry.shape
    # Without the zeros: the library refuses a product that overflows before it meets one.
    elements = math.prod(size for size in sizes if size)
    if any(size < 0 for size in sizes) or not 0 <= elements * bits <= _MAX_ELEMENTS:
        raise DamagedSafetensorsError(
            path,
            "tensor_shape",
            f"tensor {name!r} has the shape {list(sizes)!r:.200}",
            actual=sizes,
        )
    total_bits = 0 if 0 in sizes else elements * bits
    if total_bits % 8:
        raise DamagedSafetensorsError(
            path,
            "tensor_shape",
            f"tensor {name!r} of {entry.dtype} and shape {list(sizes)!r:.200} ends inside a byte",
            actual=sizes,
        )
    return total_bits // 8


def _check_end(tensors: Iterable[TensorInfo], available: int, path: str) -> None:
    end = max((tensor.end for tensor in tensors), default=0)
    if end != available:
        raise DamagedSafetensorsError(
            path,
            "truncated" if end > available else "oversized",
            f"its tensors take {end} bytes, the file has {available} for them",
            expected=end,
            actual=available,
        )
