"""Tensors on their way to a file: copied into memory that is kept, written from there.

What is staged is the file as it will be, in the safetensors format; the copy is the only thing a
run has to wait for.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.errors import ResourceError
from gen_worker.trainer.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Layout", "Staging", "layout_of", "write_staged"]

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
"""How the format calls torch's dtypes."""
_ALIGNMENT = 64
"""Of a file's tensors as far as their sizes let them be: who reads it may use them in place."""
_WRITE_BYTES = 64 << 20


class Layout(NamedTuple):
    """One file that will be written."""

    name: str
    header: bytes
    tensors: Sequence[Any]
    """In the order of their bytes: those that fill whole lines, then the widest elements first."""
    size_bytes: int
    """Without the header."""


def layout_of(
    name: str, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> Layout:
    """Lay a file out; nothing is copied.

    Args:
        name: Of the file.
        tensors: By name, on any devices.
        metadata: Of the file; none by default.

    Raises:
        CheckpointError: The format has no such tensors; the message names one.
    """
    ordered = sorted(tensors.items(), key=_place)
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    offset = 0
    for key, tensor in ordered:
        end = offset + tensor.numel() * tensor.element_size()
        header[key] = {
            "dtype": _code_of(key, tensor),
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = msgspec.json.encode(header)
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return Layout(name, len(text).to_bytes(8, "little") + text, [one for _, one in ordered], offset)


def _place(item: tuple[str, Any]) -> tuple[bool, int]:
    """Return what puts tensors so that each is aligned, and most to `_ALIGNMENT`."""
    element_bytes = item[1].element_size()
    return item[1].numel() * element_bytes % _ALIGNMENT != 0, -element_bytes


def _code_of(name: str, tensor: Any) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    code = _CODES.get(dtype)
    if code is None or str(tensor.layout) != "torch.strided" or tensor.device.type == "meta":
        raise CheckpointError(
            f"tensor {name!r} is {dtype} on {tensor.device}, {tensor.layout}: safetensors files "
            "hold dense numbers only",
            path=name,
        )
    return code


class Staging:
    """Host memory for one checkpoint at a time, used again by the next."""

    def __init__(self) -> None:
        self._memory: Any = None
        self._views: list[Any] = []
        self._headers: list[bytes] = []

    def stage(self, layouts: Sequence[Layout]) -> list[tuple[Layout, memoryview]]:
        """Copy all tensors, and return each file's bytes behind its header; blocks.

        They are good until the next call.
        """
        import torch  # type: ignore[import-not-found,unused-ignore]

        tensors = [tensor for layout in layouts for tensor in layout.tensors]
        offsets, total_bytes = _offsets(layouts)
        is_remote = any(tensor.device.type == "cuda" for tensor in tensors)
        self._prepare(torch, layouts, offsets, total_bytes, page_locked=is_remote)
        with torch.no_grad():
            for view, tensor in zip(self._views, tensors, strict=True):
                view.copy_(tensor, non_blocking=is_remote)
        if is_remote:
            for device in {tensor.device for tensor in tensors if tensor.device.type == "cuda"}:
                torch.cuda.synchronize(device)
        whole = memoryview(self._memory)
        return [
            (layout, whole[offset : offset + layout.size_bytes])
            for layout, offset in zip(layouts, offsets, strict=True)
        ]

    def _prepare(
        self,
        torch: Any,
        layouts: Sequence[Layout],
        offsets: Sequence[int],
        total_bytes: int,
        *,
        page_locked: bool,
    ) -> None:
        """Have memory that is large enough, and in it a view for each tensor."""
        from gen_worker.models.reader import HostMemory

        headers = [layout.header for layout in layouts]
        if headers == self._headers:
            return
        self._views, self._headers = [], []
        if self._memory is None or len(self._memory) < total_bytes:
            self._memory = None
            self._memory = HostMemory(total_bytes)
        if page_locked:
            with suppress(ResourceError):  # slower, and as good
                self._memory.page_lock()
        buffer = torch.frombuffer(self._memory, dtype=torch.uint8)
        for layout, start in zip(layouts, offsets, strict=True):
            for tensor in layout.tensors:
                end = start + tensor.numel() * tensor.element_size()
                self._views.append(buffer[start:end].view(tensor.dtype).view(tensor.shape))
                start = end
        self._headers = headers


def _offsets(layouts: Sequence[Layout]) -> tuple[list[int], int]:
    """Return where each file begins in the memory, and how much that is in all."""
    offsets: list[int] = []
    end = 0
    for layout in layouts:
        offsets.append(end)
        end += -(-layout.size_bytes // _ALIGNMENT) * _ALIGNMENT
    return offsets, max(end, 1)


def write_staged(directory: str, layout: Layout, content: memoryview) -> None:
    """Write a file; from whichever thread."""
    with open(os.path.join(directory, layout.name), "xb", buffering=0) as file:
        for part in (memoryview(layout.header), content):
            start = 0
            while start < len(part):
                start += file.write(part[start : start + _WRITE_BYTES])
