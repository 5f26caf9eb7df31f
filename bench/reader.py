"""Loading a safetensors file into memory: from the disk, from the page cache, with its hash.

The peer is `safetensors.torch.load_file`, called in this file. It maps the file and its tensors are
read when they are first used, so both sides count until one byte of every page was used. Before a
cold block, each side's file is written out and dropped from the page cache in the same way; the
files are separate, so that neither side finds what the other has read. The rows about hashing have
our own read without it as their peer.

    python bench/reader.py [--save] [--size-mib 2048] [--directory /var/tmp]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from time import perf_counter
from typing import TYPE_CHECKING, Any

from harness import BLOCKS, Row, paired, save

from gen_worker.models.reader import read_files

try:
    import safetensors.torch
    import torch  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    print("bench/reader.py is skipped: it needs torch")
    sys.exit(0)

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "bench/reader.py"
TENSORS = 64


def written(directory: str, name: str, size_mib: int) -> str:
    """Write a file of equal tensors of random bytes and return its path."""
    path = os.path.join(directory, f"{name}.safetensors")
    count = (size_mib << 20) // TENSORS
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"layer.{index:03}": torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
        for index in range(TENSORS)
    }
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
    """Bring the file into the page cache."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(8 << 20)
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


def rows(mine: str, theirs: str, blocks: int) -> list[Row]:
    """Measure all rows with two files of the same size."""

    def row(
        name: str,
        load: Callable[[str], dict[str, Any]],
        peer: Callable[[str], dict[str, Any]],
        prepare: Callable[[str], None],
        goal: str = "",
        least: float = 0.0,
    ) -> Row:
        return paired(
            name,
            timed(load, prepare, mine),
            timed(peer, prepare, theirs),
            unit="GB/s",
            peer_source=SOURCE,
            blocks=blocks,
            goal=goal,
            passes=(lambda a, b, ratio: ratio >= least) if least else None,
        )

    return [
        row("cold, every page used", ours, library, drop, "x >= 1.5", 1.5),
        row("warm, every page used", ours, library, warm, "x >= 1", 1.0),
        row("warm, into memory of its own (peer: clone)", copied, cloned, warm, "x >= 1", 1.0),
        row("cold, hashed (peer: ours, not hashed)", hashed, copied, drop, "x >= 0.95", 0.95),
        row("cold, hashed", hashed, library, drop),
        row("warm, hashed (peer: ours, not hashed)", hashed, copied, warm),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--directory", default=None, help="on the disk to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="reader-") as directory:
        mine = written(directory, "ours", options.size_mib)
        theirs = written(directory, "peer", options.size_mib)
        save("reader", rows(mine, theirs, options.blocks))


if __name__ == "__main__":
    main()
