"""Tensors as files hold them, read by position."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.errors import UnreadableSourceError
from gen_worker.conversion.lazy.dtypes import size_bytes_of, torch_dtype
from gen_worker.conversion.lazy.slab_memory import LEAST_BYTES, slab_memory
from gen_worker.conversion.lazy.tensor import Extent, LazyTensor
from gen_worker.conversion.lazy.turns import waiting_for_disk
from gen_worker.errors import ArtifactTransferError, WorkerError
from gen_worker.models.formats import DamagedFileError, Header
from gen_worker.models.formats.plain_files import open_plain
from gen_worker.models.reader.memory import PAGE
from gen_worker.models.reader.page_cache import PageCache
from gen_worker.models.reader.source_files import SourceFile, open_direct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.models.formats import TensorInfo

__all__ = ["StoredTensor", "WeightsFile", "bytes_of", "unreadable"]

_PACKED = ("F4", "F6_E2M3", "F6_E3M2")
"""Elements that share bytes; torch counts the bytes of the first, and lacks the others."""


class WeightsFile(NamedTuple):
    """A file whose header was read and checked; it must be the same file at every read."""

    path: str
    size_bytes: int
    mtime_ns: int

    @classmethod
    def at(cls, path: str) -> WeightsFile:
        """Take what the file is now.

        Raises:
            UnreadableSourceError: It is not there.
        """
        try:
            facts = os.stat(path)
        except OSError as error:
            raise unreadable(path, error) from error
        return cls(path, facts.st_size, facts.st_mtime_ns)

    def read(self, start: int, size_bytes: int, alignment: int = 1) -> Any:
        """Return bytes of the file as a tensor; blocks, without the interpreter's lock.

        The file is opened for each read: a checkpoint of a hundred files holds no descriptor, and
        one that is replaced meanwhile is noticed. What the page cache does not hold is read past
        it, for which memory and offsets are those of whole pages; what is small is not.

        Args:
            start: Offset in the file.
            size_bytes: From there on.
            alignment: Of the bytes in memory. Old files have tensors at any offset: those are read
                through the page cache, as what is read in whole pages would have to be copied.

        Raises:
            DamagedFileError: The file is not the one whose header was read.
            ArtifactTransferError: It cannot be read.
        """
        with self._opened() as file:
            is_small = size_bytes < LEAST_BYTES
            if is_small or start % alignment or not file.is_cold(start, start + size_bytes):
                made = slab_memory(size_bytes)
                file.read(bytes_of(made), start)
                return made
            first = start // PAGE * PAGE
            skipped = start - first
            made = slab_memory(-(-(skipped + size_bytes) // PAGE) * PAGE)
            with waiting_for_disk():
                file.read(bytes_of(made), first)
            return made[skipped : skipped + size_bytes]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[SourceFile]:
        try:
            with contextlib.ExitStack() as stack:
                descriptor, size_bytes = stack.enter_context(open_plain(self.path))
                if (size_bytes, os.fstat(descriptor).st_mtime_ns) != self[1:]:
                    raise self._changed(size_bytes)
                direct = open_direct(descriptor)
                if direct is not None:
                    stack.callback(os.close, direct)
                header = Header({}, {}, 0, size_bytes)
                cache = PageCache(descriptor, size_bytes)
                yield SourceFile(self.path, header, descriptor, direct, cache)
        except OSError as error:
            if isinstance(error, WorkerError):
                raise
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
        made = self.file.read(self.start + first, last - first, dtype.itemsize)
        if self.dtype == "F4":
            shape = (*shape[:-1], shape[-1] // 2)
        return made.view(dtype).view(shape)


def unreadable(path: str, error: OSError) -> UnreadableSourceError:
    """Return what it means that a file of a source cannot be opened."""
    place = os.fspath(error.filename) if isinstance(error.filename, str) else path
    return UnreadableSourceError(
        f"{place!r} cannot be read, {error.strerror or error}: check the path, the rights and the "
        "disk it is on",
        file=place,
        step="read",
    )


def bytes_of(tensor: Any) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU; the tensor must outlive it."""
    import ctypes

    size_bytes = tensor.numel() * tensor.element_size()
    memory = (ctypes.c_char * size_bytes).from_address(tensor.data_ptr() if size_bytes else 1)
    return memoryview(memory).cast("B")
