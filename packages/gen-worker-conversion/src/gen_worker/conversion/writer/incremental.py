"""A safetensors file whose tensors come one by one from the caller."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionImplementationError
from gen_worker.conversion.lazy.stored import bytes_of
from gen_worker.conversion.writer.output_file import OutputFile, WrittenFile
from gen_worker.conversion.writer.shards import TensorFacts, header_bytes
from gen_worker.models.formats import DTYPE_BITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["IncrementalSafetensorsWriter"]


class IncrementalSafetensorsWriter:
    """Writes one file: all names, dtypes and shapes first, then the data in the same order.

    The file appears when `close` finds it whole. Left by an error, or closed too early, it leaves
    nothing.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Open it.

        Args:
            path: Of the file; its directory is made.
            metadata: Of the header; `format` is `pt` unless it says otherwise.
        """
        self._path = os.fspath(path)
        self._metadata = {"format": "pt", **(metadata or {})}
        self._facts: dict[str, TensorFacts] = {}
        self._file: OutputFile | None = None
        self._waiting: list[str] = []
        self.written: WrittenFile | None = None
        """What was written, once `close` has returned."""

    def add_tensor_metadata(self, name: str, *, dtype: str, shape: Sequence[int]) -> None:
        """Announce a tensor.

        Raises:
            ConversionImplementationError: The header is written, the name was announced before, or
                the format has no such dtype.
        """
        if self._file is not None:
            raise self._misuse(name, "announced after the header was written")
        if name in self._facts:
            raise self._misuse(name, "announced twice")
        if dtype not in DTYPE_BITS:
            raise self._misuse(
                name, f"given the dtype {dtype!r}, known are {', '.join(DTYPE_BITS)}"
            )
        self._facts[name] = TensorFacts(dtype, tuple(shape))

    def write_header(self) -> None:
        """Make the file and write its header.

        Raises:
            ConversionImplementationError: It was written before.
            OutputSpaceError: The disk is full.
        """
        if self._file is not None:
            raise self._misuse("", "given a second header")
        self._waiting = list(reversed(self._facts))
        self._file = OutputFile(self._path)
        self._file.write(header_bytes(self._facts, self._metadata))

    def write_tensor(self, name: str, data: Any) -> None:
        """Write the data of the next tensor; blocks.

        Args:
            name: It must be the next in the order they were announced.
            data: A torch tensor on the CPU, or bytes.

        Raises:
            ConversionImplementationError: It is another tensor's turn, or the data has another
                size than was announced.
            OutputSpaceError: The disk is full.
        """
        if self._file is None:
            raise self._misuse(name, "written before the header")
        if not self._waiting or self._waiting[-1] != name:
            turn = repr(self._waiting[-1]) if self._waiting else "nothing"
            raise self._misuse(name, f"written when it is the turn of {turn}")
        content = _content(data)
        wanted = self._facts[name].size_bytes
        if len(content) != wanted:
            raise self._misuse(name, f"given {len(content)} bytes, {wanted} were announced")
        self._waiting.pop()
        self._file.write(content)

    def close(self) -> None:
        """Make the file durable and visible; does nothing the second time.

        Raises:
            ConversionImplementationError: Tensors are missing; nothing is left of the file.
        """
        if self.written is not None:
            return
        if self._file is None:
            raise self._misuse("", "closed before its header was written")
        if self._waiting:
            missing = self._waiting[-1]
            self._file.abandon()
            raise self._misuse(missing, f"missing, with {len(self._waiting) - 1} more, at the end")
        self.written = self._file.finish()

    def _misuse(self, name: str, problem: str) -> ConversionImplementationError:
        what = f"tensor {name!r} of {self._path!r} was" if name else f"{self._path!r} was"
        return ConversionImplementationError(
            f"{what} {problem}: announce all tensors, write the header, then each in that order",
            file=self._path,
            tensor=name,
            step="write",
        )

    def __enter__(self) -> IncrementalSafetensorsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        elif self._file is not None:
            self._file.abandon()


def _content(data: Any) -> memoryview:
    """Return the bytes of a tensor, or of anything with a buffer."""
    if hasattr(data, "data_ptr"):
        return bytes_of(data.detach().contiguous())
    return memoryview(data).cast("B")
