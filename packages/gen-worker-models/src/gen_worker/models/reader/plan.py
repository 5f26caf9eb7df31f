"""Which bytes of a file to read and where they go, worked out before anything is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.reader.memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from gen_worker.models.formats import Header, TensorInfo

__all__ = ["BLOCK_BYTES", "Block", "Run", "blocks_of", "device_runs", "host_runs"]

BLOCK_BYTES = 8 << 20
"""Of one read: from 2 MiB on it makes no difference with eight threads (ext4 on virtio, measured
with `bench/reader.py`), and progress and cancellation want it small."""
_MAX_GAP_BYTES = 256 << 10
"""Unwanted bytes that are read because a seek costs more."""
_DEVICE_ALIGNMENT = 256
"""Of what `cudaMalloc` returns; kernels that load vectors want at least 16."""


class Run(NamedTuple):
    """Bytes of a file that stay together."""

    start: int
    """Offset in the file."""
    end: int
    position: int
    """Where `start` goes in the destination."""

    def place(self, offset: int) -> int:
        """Return where a byte of the file goes."""
        return self.position + offset - self.start


class Block(NamedTuple):
    """One read."""

    file: int
    """Which of the files, counted from 0."""
    start: int
    """A multiple of the page size, as reads past the page cache need it."""
    end: int
    """Also one, so at the end of the file there is less to read."""
    position: int


def host_runs(tensors: Mapping[str, TensorInfo], header: Header, *, whole: bool) -> list[Run]:
    """Lay out what is read into host memory: whole pages, one run after another.

    Args:
        tensors: The wanted ones, in the order of their bytes.
        header: Of the file.
        whole: The header and unwanted tensors too, because the file is hashed.
    """
    if whole:
        return [Run(0, _page_up(header.size_bytes), 0)]
    runs: list[Run] = []
    for start, end in _ranges(tensors.values(), header.data_start):
        first, last = start // PAGE * PAGE, _page_up(end)
        if runs and first - runs[-1].end <= _MAX_GAP_BYTES:
            runs[-1] = runs[-1]._replace(end=max(last, runs[-1].end))
        else:
            position = runs[-1].place(runs[-1].end) if runs else 0
            runs.append(Run(first, last, position))
    return runs


def device_runs(tensors: Mapping[str, TensorInfo], header: Header) -> list[Run]:
    """Lay out what goes to a device: neighbours stay together while that keeps them aligned."""
    runs: list[Run] = []
    for start, end in _ranges(tensors.values(), header.data_start):
        last = runs[-1] if runs else Run(start, start, 0)
        if last.end == start and last.place(start) % _DEVICE_ALIGNMENT == 0:
            runs[-1:] = [last._replace(end=end)]
        elif start != end:
            free = last.place(last.end)
            runs.append(Run(start, end, -(-free // _DEVICE_ALIGNMENT) * _DEVICE_ALIGNMENT))
    return runs


def _ranges(tensors: Iterable[TensorInfo], data_start: int) -> Iterator[tuple[int, int]]:
    return ((data_start + info.start, data_start + info.end) for info in tensors)


def _page_up(size_bytes: int) -> int:
    return -(-size_bytes // PAGE) * PAGE


def blocks_of(file: int, runs: Sequence[Run], block_bytes: int = BLOCK_BYTES) -> list[Block]:
    """Cut runs of whole pages into reads, in the order of the file."""
    return [
        Block(file, start, min(start + block_bytes, run.end), run.place(start))
        for run in runs
        for start in range(run.start, run.end, block_bytes)
    ]
