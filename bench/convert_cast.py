"""Casting a model from fp32 to bf16: time from the page cache and from the disk, and memory.

The peer is what people write: `load_file`, `.to(torch.bfloat16)`, `save_file`, called in this file.
Ours ends when the output is on the disk, so the peer's output is flushed, too. Two rows have the
disk itself as their peer: the slower of reading the source and of writing as many bytes as the
output has, each alone; and both at once, because few disks do both at full speed. Memory is that of
a process of its own for each side, beyond `import torch`.

    python bench/convert_cast.py [--save] [--size-mib 4096] [--directory /var/tmp]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from harness import BLOCKS, Row, paired, peak_mib, save

from gen_worker.conversion.writer import IncrementalSafetensorsWriter
from gen_worker.models.reader import HostMemory

try:
    import safetensors.torch
    import torch  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    print("bench/convert_cast.py is skipped: it needs torch")
    sys.exit(0)

from gen_worker.conversion import streaming_dtype_cast

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "bench/convert_cast.py"
WIDTH = 4096
LAYER_MIB = WIDTH * WIDTH * 4 >> 20
BLOCK_BYTES = 8 << 20
THREADS = 8
LEAST_OF_DISK = 0.7


def written(directory: str, size_mib: int) -> str:
    """Write a model of equal layers, each a matrix and a norm, and return its path."""
    path = os.path.join(directory, "source.safetensors")
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(WIDTH, WIDTH, generator=generator)
    names = [f"layers.{index:03}" for index in range(max(size_mib // LAYER_MIB, 1))]
    with IncrementalSafetensorsWriter(path) as writer:
        for name in names:
            writer.add_tensor_metadata(f"{name}.weight", dtype="F32", shape=(WIDTH, WIDTH))
            writer.add_tensor_metadata(f"{name}.norm", dtype="F32", shape=(WIDTH,))
        writer.write_header()
        for index, name in enumerate(names):
            writer.write_tensor(f"{name}.weight", matrix.add_(0.001 * index))
            writer.write_tensor(f"{name}.norm", torch.ones(WIDTH))
    return path


def drop(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def warm(path: str) -> None:
    buffer = bytearray(BLOCK_BYTES)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def ours(path: str, out: str) -> None:
    streaming_dtype_cast(path, out, target_dtype="bf16", shard_threshold=1 << 60)


def peer(path: str, out: str) -> None:
    tensors = safetensors.torch.load_file(path)
    made = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    os.makedirs(out)
    file = os.path.join(out, "model.safetensors")
    safetensors.torch.save_file(made, file, metadata={"format": "pt"})
    flush(file)


def flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def timed(
    work: Callable[[str, str], None], prepare: Callable[[str], None], path: str
) -> Callable[[], float]:
    """Return what measures one conversion, in seconds."""

    def measure() -> float:
        out = f"{path}.out"
        prepare(path)
        started = perf_counter()
        work(path, out)
        seconds = perf_counter() - started
        shutil.rmtree(out)
        return seconds

    return measure


def disk(path: str) -> float:
    """Return the seconds of the slower one: reading the source, or writing half as much."""
    drop(path)
    started = perf_counter()
    read_all(path)
    reading = perf_counter() - started
    started = perf_counter()
    write_all(f"{path}.out", os.path.getsize(path) // 2)
    return max(reading, perf_counter() - started)


def disk_at_once(path: str) -> float:
    """Return the seconds that both take together."""
    drop(path)
    started = perf_counter()
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read_all, path)
        write_all(f"{path}.out", os.path.getsize(path) // 2)
        reading.result()
    return perf_counter() - started


def read_all(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffers = [HostMemory(BLOCK_BYTES) for _ in range(THREADS)]
    free = deque(buffers)

    def read(offset: int) -> None:
        buffer = free.pop()
        os.preadv(descriptor, [buffer], offset)
        free.append(buffer)

    with ThreadPoolExecutor(THREADS) as threads:
        deque(threads.map(read, range(0, os.path.getsize(path), BLOCK_BYTES)), maxlen=0)
    os.close(descriptor)


def write_all(path: str, size_bytes: int) -> None:
    block = os.urandom(BLOCK_BYTES)
    with open(path, "xb", buffering=0) as file:
        for _ in range(0, size_bytes, BLOCK_BYTES):
            file.write(block)
        os.fsync(file.fileno())
    os.unlink(path)


def memory(side: str, path: str) -> float:
    """Return by how many MiB the peak of a process grows beyond `import torch`."""
    command = [sys.executable, __file__, "--memory-of", side, "--directory", path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def print_memory(side: str, path: str) -> None:
    before = peak_mib()
    {"ours": ours, "peer": peer}[side](path, f"{path}.out")
    grown = peak_mib() - before
    shutil.rmtree(f"{path}.out")
    print(json.dumps(grown))


def rows(path: str, blocks: int) -> list[Row]:
    size_mib = os.path.getsize(path) >> 20
    row = partial(paired, unit="s", peer_source=SOURCE, blocks=blocks)
    return [
        paired(
            f"cast of {size_mib} MiB, memory",
            partial(memory, "ours", path),
            partial(memory, "peer", path),
            unit="MiB",
            peer_source=SOURCE,
            blocks=2,  # it hardly varies
            goal="<= 200 MiB",
            passes=lambda a, b, ratio: a <= 200,
        ),
        row(
            f"cast of {size_mib} MiB, warm",
            timed(ours, warm, path),
            timed(peer, warm, path),
            goal="x <= 1",
            passes=lambda a, b, ratio: ratio <= 1,
        ),
        row(
            f"cast of {size_mib} MiB, cold",
            timed(ours, drop, path),
            timed(peer, drop, path),
            goal="x <= 1",
            passes=lambda a, b, ratio: ratio <= 1,
        ),
        row(
            f"cast of {size_mib} MiB, cold (peer: the disk)",
            timed(ours, drop, path),
            partial(disk, path),
            goal=f"x <= {1 / LEAST_OF_DISK:.2f}",
            passes=lambda a, b, ratio: ratio <= 1 / LEAST_OF_DISK,
        ),
        row(
            f"cast of {size_mib} MiB, cold (peer: the disk, both at once)",
            timed(ours, drop, path),
            partial(disk_at_once, path),
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--size-mib", type=int, default=4096)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--directory", help="where the files go: the disk to measure")
    parser.add_argument("--memory-of", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print_memory(options.memory_of, options.directory)
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        save("convert_cast", rows(written(directory, options.size_mib), options.blocks))


if __name__ == "__main__":
    main()
