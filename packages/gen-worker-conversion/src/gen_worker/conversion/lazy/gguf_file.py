"""Tensors of GGUF files: plain numbers as they are, blocks dequantised to float32."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.shaping import reshape
from gen_worker.conversion.lazy.stored import StoredTensor, WeightsFile
from gen_worker.conversion.lazy.tensor import Extent, LazyTensor
from gen_worker.models.formats import read_gguf_header
from gen_worker.models.formats.gguf_types import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.formats import GgufTensor

__all__ = ["BlockTensor", "RawBlocks", "gguf_parts", "gguf_tensors", "raw_gguf_tensors"]

_PLAIN = frozenset({"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"})
_MAX_FILES = 99_999
"""More have no names."""
_BLOCKS = {block.name: block for block in BLOCKS.values()}


def gguf_tensors(path: str) -> dict[str, LazyTensor]:
    """Return the tensors of a GGUF file, their dimensions in the order of torch.

    Raises:
        DamagedFileError: The file is damaged.
    """
    file, header = WeightsFile.at(path), read_gguf_header(path)
    return {
        name: _tensor(file, name, info, header.data_start) for name, info in header.tensors.items()
    }


def raw_gguf_tensors(path: str) -> dict[str, LazyTensor]:
    """Return the tensors of a GGUF file as they are there: those in blocks as rows of bytes.

    Raises:
        DamagedFileError: The file is damaged.
    """
    file, header = WeightsFile.at(path), read_gguf_header(path)
    made: dict[str, LazyTensor] = {}
    for name, info in header.tensors.items():
        tensor = _tensor(file, name, info, header.data_start)
        if info.type_name not in _PLAIN:
            tensor = RawBlocks(file, tensor, info, header.data_start)
        made[name] = tensor
    return made


def gguf_parts(path: str) -> list[str]:
    """Return the files of a model, of which the first is named: one, unless it is split.

    Raises:
        DamagedFileError: The file is damaged.
        ConversionInputError: It is another one of split files, or one is missing.
    """
    metadata = read_gguf_header(path).metadata
    count = metadata.get("split.count", 0)
    if not isinstance(count, int) or count < 2:
        return [path]
    if count > _MAX_FILES:
        raise ConversionInputError(
            f"{path!r} says that it is one of {count} files: fetch it again", file=path
        )
    ending = f"-00001-of-{count:05d}.gguf"
    stem = path.removesuffix(ending)
    parts = [f"{stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    missing = [part for part in parts if not os.path.isfile(part)]
    if stem == path or metadata.get("split.no") != 0 or missing:
        raise ConversionInputError(
            f"{path!r} is one of {count} files: give the first, whose name ends with {ending!r}, "
            "and have the others beside it",
            file=missing[0] if missing else path,
        )
    return parts


def _tensor(file: WeightsFile, name: str, info: GgufTensor, data_start: int) -> LazyTensor:
    shape, start = tuple(reversed(info.shape)), data_start + info.start
    if info.type_name in _PLAIN:
        return StoredTensor(file, shape, info.type_name, start)
    rows = (math.prod(shape[:-1]), shape[-1]) if len(shape) > 2 else shape  # such as experts
    return reshape(BlockTensor(file, name, rows, info.type_name, start), shape)


class RawBlocks(StoredTensor):
    """The bytes of a tensor in blocks, a row of blocks in each row."""

    def __init__(
        self, file: WeightsFile, unpacked: LazyTensor, info: GgufTensor, data_start: int
    ) -> None:
        size, block = info.end - info.start, _BLOCKS[info.type_name]
        width = unpacked.shape[-1] // block.elements * block.size_bytes
        super().__init__(file, (size // max(width, 1), width), "U8", data_start + info.start)
        self.type_name = info.type_name
        self.unpacked = unpacked
        """The same, as numbers."""


class BlockTensor(LazyTensor):
    """Quantised weights in blocks along the last dimension; its rows are float32."""

    def __init__(
        self, file: WeightsFile, name: str, shape: Sequence[int], type_name: str, start: int
    ) -> None:
        super().__init__(shape, "F32")
        block = _BLOCKS[type_name]
        self.file = file
        self.name = name
        self.type_name = type_name
        self.start = start
        self.packed_row_bytes = self.row_elements // block.elements * block.size_bytes
        if len(self.shape) == 1:  # a row is then one element, which no block ends with
            self.is_whole = True
            self.packed_row_bytes = 0
        self._all_bytes = self.elements // block.elements * block.size_bytes

    @property
    def inputs(self) -> Sequence[LazyTensor]:
        return ()

    @property
    def sources(self) -> tuple[Extent, ...]:
        return (Extent(self.file.path, self.start, self.start + self._all_bytes),)

    @property
    def row_cost_bytes(self) -> int:
        """The unpacking of `gguf` keeps some float32 copies beside the blocks and the result."""
        return self.packed_row_bytes + 4 * self.row_bytes

    def rows(self, start: int, stop: int) -> Any:
        if self.is_whole:
            return self._unpacked(0, self._all_bytes)[start:stop]
        width = self.packed_row_bytes
        made = self._unpacked(start * width, stop * width)
        return made.reshape(stop - start, *self.shape[1:])

    def _unpacked(self, first: int, last: int) -> Any:
        """Return the elements of the blocks between two offsets, in one dimension."""
        try:
            import gguf  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError as error:
            raise ConversionInputError(
                f"tensor {self.name!r} of {self.file.path!r} is in blocks of {self.type_name}: "
                'install "gen-worker[conversion]" to read them',
                file=self.file.path,
                tensor=self.name,
            ) from error
        import torch  # type: ignore[import-not-found,unused-ignore]

        packed = self.file.read(self.start + first, last - first)
        try:
            kind = gguf.GGMLQuantizationType[self.type_name]
            numbers = gguf.quants.dequantize(packed.numpy(), kind)
        except (KeyError, NotImplementedError) as error:
            raise ConversionInputError(
                f"tensor {self.name!r} of {self.file.path!r} is in blocks of {self.type_name}, "
                "which the installed gguf cannot unpack: start from another file of the model",
                file=self.file.path,
                tensor=self.name,
            ) from error
        return torch.from_numpy(numbers).reshape(-1)
