"""Loading a safetensors file into memory: from the disk, from the page cache, with its hash.

The peer is `safetensors.torch.load_file`, called in this file. It maps the file and its tensors are
read when they are first used, so both sides count until one byte of every page was used. Before a
cold block, each side's file is written out and dropped from the page cache in the same way; the
files are separate, so that neither side finds what the other has read. The rows about hashing have
our own read without it as their peer, and one row has the disk itself: the same reads into buffers
that are used again and again, which is what the disk gives to any reader. The two bars against
`load_file` are about files of `--size-mib`, the other rows about a fifth of it.

    python bench/reader.py [--save] [--size-mib 2048] [--directory /var/tmp]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from harness import BLOCKS, Row, paired, save

from gen_worker.models.reader import HostMemory, read_files
from gen_worker.models.reader.page_cache import PageCache

try:
    import safetensors.torch
    import torch  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    print("bench/reader.py is skipped: it needs torch")
    sys.exit(0)

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "bench/reader.py"
TENSOR_BYTES = 32 << 20
"""From here on the C library gives back what is freed, so that each load pays for its memory."""
BLOCK_BYTES = 8 << 20
THREADS = 8


def written(directory: str, name: str, size_mib: int) -> str:
    """Write a file of equal tensors of random bytes and return its path."""
    path = os.path.join(directory, f"{name}.safetensors")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (TENSOR_BYTES,), dtype=torch.uint8, generator=generator)
    count = (size_mib << 20) // TENSOR_BYTES
    tensors = {f"layer.{index:03}": noise + index for index in range(count)}
    safetensors.torch.save_file(tensors, path)
    drop(path)
    return path


def drop(path: str) -> None:
    """Write the file out and drop it from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def warm(path: str) -> None:
    """Bring the file into the page cache, unless it is there."""
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        if PageCache(file.fileno(), size).fraction(0, size) == 1.0:
            return
        buffer = bytearray(BLOCK_BYTES)
        while file.readinto(buffer):
            pass


def use(tensors: dict[str, Any]) -> int:
    """Use one byte of every page."""
    return sum(int(tensor.view(torch.uint8)[::4096].sum()) for tensor in tensors.values())


def timed(
    load: Callable[[str], dict[str, Any]], prepare: Callable[[str], None], path: str
) -> Callable[[], float]:
    """Return what measures one load, in GB/s."""

    def measure() -> float:
        prepare(path)
        started = perf_counter()
        tensors = load(path)
        use(tensors)
        seconds = perf_counter() - started
        del tensors
        return os.path.getsize(path) / seconds / 1e9

    return measure


def library(path: str) -> dict[str, Any]:
    tensors: dict[str, Any] = safetensors.torch.load_file(path)
    return tensors


def ours(path: str, **options: Any) -> dict[str, Any]:
    return read_files([path], **options)[0].tensors


def hashed(path: str) -> dict[str, Any]:
    return ours(path, hashed=True)


def copied(path: str) -> dict[str, Any]:
    return ours(path, copy=True)


def cloned(path: str) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in library(path).items()}


@cache
def used_buffers() -> SimpleQueue[HostMemory]:
    """Return buffers whose pages are there, once for all blocks."""
    buffers: SimpleQueue[HostMemory] = SimpleQueue()
    for _ in range(THREADS):
        buffer = HostMemory(BLOCK_BYTES)
        buffer.write(bytes(BLOCK_BYTES))
        buffers.put(buffer)
    return buffers


def disk(path: str) -> dict[str, Any]:
    """Read the file as our reader does, and keep nothing of it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffers = used_buffers()

    def read(offset: int) -> None:
        buffer = buffers.get()
        os.preadv(descriptor, [buffer], offset)
        buffers.put(buffer)

    with ThreadPoolExecutor(THREADS) as threads:
        deque(threads.map(read, range(0, os.path.getsize(path), BLOCK_BYTES)), maxlen=0)
    os.close(descriptor)
    return {}


class Files(NamedTuple):
    """Two files of the same size, one for each side."""

    ours: str
    peers: str


def files(directory: str, size_mib: int) -> Files:
    return Files(*(written(directory, f"{side}-{size_mib}", size_mib) for side in Files._fields))


class Bench(NamedTuple):
    blocks: int

    def row(
        self,
        name: str,
        pair: Files,
        load: Callable[[str], dict[str, Any]],
        peer: Callable[[str], dict[str, Any]],
        prepare: Callable[[str], None],
        least: float = 0.0,
    ) -> Row:
        """Measure one pair; `least` is the bar of the ratio."""
        return paired(
            name,
            timed(load, prepare, pair.ours),
            timed(peer, prepare, pair.peers),
            unit="GB/s",
            peer_source=SOURCE,
            blocks=self.blocks,
            goal=f"x >= {least:g}" if least else "",
            passes=(lambda a, b, ratio: ratio >= least) if least else None,
        )

    def rows(self, large: Files, small: Files) -> list[Row]:
        return [
            self.row("cold, every page used", large, ours, library, drop, 1.5),
            self.row("warm, every page used", large, ours, library, warm, 1.0),
            self.row("cold (peer: the disk itself)", small, ours, disk, drop),
            self.row("warm, own memory (peer: clone)", small, copied, cloned, warm, 1.0),
            self.row("cold, hashed (peer: ours, not hashed)", small, hashed, copied, drop, 0.95),
            self.row("warm, hashed (peer: ours, not hashed)", small, hashed, copied, warm),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--directory", default=None, help="on the disk to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="reader-") as directory:
        large, small = (files(directory, options.size_mib // part) for part in (1, 5))
        save("reader", Bench(options.blocks).rows(large, small))


if __name__ == "__main__":
    main()
