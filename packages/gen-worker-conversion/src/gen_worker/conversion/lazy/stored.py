"""Tensors as files hold them, read by position."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.lazy.dtypes import size_bytes_of, torch_dtype
from gen_worker.conversion.lazy.tensor import Extent, LazyTensor
from gen_worker.errors import ArtifactTransferError
from gen_worker.models.formats import DamagedFileError
from gen_worker.models.formats.plain_files import open_plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.formats import TensorInfo

__all__ = ["StoredTensor", "WeightsFile", "bytes_of", "new_bytes"]

_PACKED = ("F4", "F6_E2M3", "F6_E3M2")
"""Elements that share bytes; torch counts the bytes of the first, and lacks the others."""


class WeightsFile(NamedTuple):
    """A file whose header was read and checked; it must be the same file at every read."""

    path: str
    size_bytes: int
    mtime_ns: int

    @classmethod
    def at(cls, path: str) -> WeightsFile:
        facts = os.stat(path)
        return cls(path, facts.st_size, facts.st_mtime_ns)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from the file; blocks, without the interpreter's lock.

        The file is opened for each read: a checkpoint of a hundred files holds no descriptor, and
        one that is replaced meanwhile is noticed.
        """
        try:
            with open_plain(self.path) as (descriptor, size_bytes):
                facts = os.fstat(descriptor)
                if (size_bytes, facts.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
                    raise self._changed(size_bytes)
                while buffer:
                    count = os.preadv(descriptor, [buffer], offset)
                    if count == 0:
                        raise self._changed(offset)
                    buffer, offset = buffer[count:], offset + count
        except DamagedFileError:
            raise
        except OSError as error:
            raise ArtifactTransferError(
                f"file {self.path!r} cannot be read, {error.strerror}: check the disk it is on",
                phase="read",
                cause_type=type(error).__name__,
            ) from error

    def _changed(self, size_bytes: int) -> DamagedFileError:
        return DamagedFileError(
            self.path,
            "truncated" if size_bytes < self.size_bytes else "oversized",
            "it changed after its header was read",
            expected=self.size_bytes,
            actual=size_bytes,
            remedy="start again, and leave the file alone until the conversion has ended",
        )


class StoredTensor(LazyTensor):
    """A tensor of a safetensors file, or plain numbers in one of GGUF."""

    is_elementwise = True

    def __init__(self, file: WeightsFile, shape: Sequence[int], dtype: str, start: int) -> None:
        """Describe it.

        Args:
            file: Which holds it.
            shape: In elements.
            dtype: Safetensors code.
            start: Offset in the file of its first byte.
        """
        super().__init__(shape, dtype)
        self.file = file
        self.start = start

    @classmethod
    def of(cls, file: WeightsFile, info: TensorInfo, data_start: int) -> StoredTensor:
        return cls(file, info.shape, info.dtype, data_start + info.start)

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return ()

    @property
    def sources(self) -> tuple[Extent, ...]:
        return (Extent(self.file.path, self.start, self.start + self.size_bytes),)

    def flat(self) -> LazyTensor:
        """Return its elements in one dimension; where elements share bytes, its bytes."""
        if self.dtype in _PACKED:
            return StoredTensor(self.file, (self.size_bytes,), "U8", self.start)
        return StoredTensor(self.file, (self.elements,), self.dtype, self.start)

    def rows(self, start: int, stop: int) -> Any:
        dtype = torch_dtype(self.dtype)
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        first = size_bytes_of(self.dtype, start * self.row_elements)
        last = size_bytes_of(self.dtype, stop * self.row_elements)
        made = new_bytes(last - first)
        if last > first:
            self.file.read_into(bytes_of(made), self.start + first)
        if self.dtype == "F4":
            shape = (*shape[:-1], shape[-1] // 2)
        return made.view(dtype).view(shape)


def new_bytes(size_bytes: int) -> Any:
    """Return a tensor of bytes whose content is whatever the memory held."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    return torch.empty(size_bytes, dtype=torch.uint8)


def bytes_of(tensor: Any) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU; the tensor must outlive it."""
    import ctypes

    size_bytes = tensor.numel() * tensor.element_size()
    memory = (ctypes.c_char * size_bytes).from_address(tensor.data_ptr() if size_bytes else 1)
    return memoryview(memory).cast("B")
