"""Read files into host memory: mapped where they are cached, else one allocation for each."""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.models.reader.memory import HostMemory
from gen_worker.models.reader.page_cache import populate
from gen_worker.models.reader.plan import Block, Run, blocks_of, host_runs
from gen_worker.models.reader.pump import Feed, pump

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.formats import TensorInfo
    from gen_worker.models.reader.hashing import FileHash
    from gen_worker.models.reader.source_files import SourceFile

__all__ = ["Filled", "fill", "is_cached", "map_files"]

_CACHED = 0.99
_MAP_STEP_BYTES = 64 << 20


class Filled(NamedTuple):
    """Memory that holds the wanted bytes of a file."""

    memory: Any
    """A `HostMemory`, or the mapping of a file."""
    runs: Sequence[Run]

    def tensor(self) -> Any:
        """Return all of it as a tensor of bytes, which keeps it alive."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        return torch.frombuffer(self.memory, dtype=torch.uint8)


def is_cached(source: SourceFile, tensors: Mapping[str, TensorInfo]) -> bool:
    """Tell whether all wanted bytes are in the page cache."""
    runs = host_runs(tensors, source.header, whole=False)
    known = [source.cache.fraction(run.start, run.end) for run in runs]
    return all(part is not None and part >= _CACHED for part in known)


def map_files(
    sources: Sequence[SourceFile],
    wanted: Sequence[Mapping[str, TensorInfo]],
    *,
    progress: Callable[[int], None],
    token: CancelToken | None,
) -> list[Filled]:
    """Map files that are cached: what is in the page cache is the tensors' memory.

    A tensor that is written to gets pages of its own.
    """
    mapped = [
        mmap.mmap(source.descriptor, source.header.size_bytes, flags=mmap.MAP_PRIVATE)
        for source in sources
    ]
    blocks = [
        block
        for file, (source, tensors) in enumerate(zip(sources, wanted, strict=True))
        for block in blocks_of(
            file, host_runs(tensors, source.header, whole=False), _MAP_STEP_BYTES
        )
    ]

    def work(feed: Feed) -> None:
        while (block := feed.take()) is not None:
            view = mapped[block.file]
            populate(view, block.start, min(block.end, len(view)))
            feed.put(block)

    threads = min(os.cpu_count() or 1, len(blocks), 4)
    pump(
        blocks, work, lambda block: progress(block.end - block.start), threads=threads, token=token
    )
    return [Filled(view, [Run(0, len(view), 0)]) for view in mapped]


def fill(
    sources: Sequence[SourceFile],
    wanted: Sequence[Mapping[str, TensorInfo]],
    hashes: Sequence[FileHash | None],
    *,
    threads: int,
    progress: Callable[[int], None],
    token: CancelToken | None,
) -> list[Filled]:
    """Read files into memory of their own."""
    filled: list[Filled] = []
    for source, tensors, hash_ in zip(sources, wanted, hashes, strict=True):
        runs = host_runs(tensors, source.header, whole=hash_ is not None)
        filled.append(Filled(HostMemory(runs[-1].place(runs[-1].end) if runs else 0), runs))
    blocks = [block for file, into in enumerate(filled) for block in blocks_of(file, into.runs)]
    with contextlib.ExitStack() as stack:
        buffers = [stack.enter_context(memoryview(into.memory)) for into in filled]

        def part(block: Block) -> memoryview:
            size = block.end - block.start
            return buffers[block.file][block.position : block.position + size]

        def work(feed: Feed) -> None:
            while (block := feed.take()) is not None:
                with part(block) as buffer:
                    sources[block.file].read(buffer, block.start)
                feed.put(block)

        def finished(block: Block) -> None:
            hash_ = hashes[block.file]
            if hash_ is not None:
                data = part(block)
                hash_.add(block.start, data, data.release)
            progress(block.end - block.start)

        pump(blocks, work, finished, threads=min(threads, len(blocks)), token=token)
    return filled
