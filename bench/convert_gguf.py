"""Packing a model into blocks of GGUF: the quantizers alone, and whole files.

The peer is the `gguf` package: its numpy quantizers, and its writer fed with tensors of
`load_file`, as llama.cpp's own conversion does. The blocks of both are the same bytes, which is
checked first. The quantizers run in one thread; files are written by as many threads as each side
uses on the cores that there are.

    python bench/convert_gguf.py [--save] [--size-mib 128] [--directory /var/tmp]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from harness import BLOCKS, Row, paired, save

try:
    import gguf  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import safetensors.torch
    import torch  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    print("bench/convert_gguf.py is skipped: it needs torch and gguf")
    sys.exit(0)

from gen_worker.conversion import open_checkpoint
from gen_worker.conversion.gguf.packing import QUANTS, packed
from gen_worker.conversion.gguf.writing import write_gguf

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "bench/convert_gguf.py"
WIDTH = 4096
TYPES = ("Q8_0", "Q4_0")
SLAB_ROWS = 256
ROWS = 2048
LEAST = 1.5


def written(directory: str, size_mib: int) -> str:
    """Write a model of equal layers and return its path."""
    path = os.path.join(directory, "source.safetensors")
    generator = torch.Generator().manual_seed(0)
    count = max((size_mib << 20) // (WIDTH * WIDTH * 4), 1)
    made = {f"blk.{n}.weight": torch.randn(WIDTH, WIDTH, generator=generator) for n in range(count)}
    safetensors.torch.save_file(made, path)
    return path


def our_blocks(type_name: str, values: torch.Tensor) -> torch.Tensor:
    """Pack slab by slab, as the writer does."""
    quantize = QUANTS[type_name]
    return torch.cat([quantize(slab) for slab in values.split(SLAB_ROWS)])


def our_file(type_name: str, path: str, out: str) -> None:
    tensors = {name: packed(tensor, type_name) for name, tensor in open_checkpoint(path).items()}
    write_gguf(tensors, {"general.architecture": "llama"}, out)


def their_file(type_name: str, path: str, out: str) -> None:
    os.makedirs(os.path.dirname(out), exist_ok=True)
    kind = gguf.GGMLQuantizationType[type_name]
    writer = gguf.GGUFWriter(out, "llama")
    for name, tensor in safetensors.torch.load_file(path).items():
        writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    descriptor = os.open(out, os.O_RDONLY)
    os.fsync(descriptor)  # ours ends when it is on the disk
    os.close(descriptor)


def timed(work: Callable[[], object], after: Callable[[], object] = int) -> Callable[[], float]:
    """Return what measures one run, in seconds."""

    def measure() -> float:
        started = perf_counter()
        work()
        seconds = perf_counter() - started
        after()
        return seconds

    return measure


def check(type_name: str, values: torch.Tensor) -> None:
    theirs = gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType[type_name])
    if our_blocks(type_name, values).numpy().tobytes() != theirs.tobytes():
        raise SystemExit(f"the blocks of {type_name} differ")


def rows(path: str, blocks: int) -> list[Row]:
    values = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    size_mib = os.path.getsize(path) >> 20
    made = []
    row = partial(paired, unit="s", peer_source=SOURCE, blocks=blocks)
    for type_name in TYPES:
        check(type_name, values)
        kind = gguf.GGMLQuantizationType[type_name]
        made.append(
            row(
                f"{type_name} of {ROWS * WIDTH * 4 >> 20} MiB, one thread",
                timed(partial(our_blocks, type_name, values)),
                timed(partial(gguf.quants.quantize, values.numpy(), kind)),
                goal=f"x <= {1 / LEAST:.2f}",
                passes=lambda a, b, ratio: ratio <= 1 / LEAST,
            )
        )
        out = f"{path}.out"
        after = partial(shutil.rmtree, out)
        made.append(
            row(
                f"{type_name} file of {size_mib} MiB of weights",
                timed(partial(our_file, type_name, path, f"{out}/m.gguf"), after),
                timed(partial(their_file, type_name, path, f"{out}/m.gguf"), after),
                goal=f"x <= {1 / LEAST:.2f}",
                passes=lambda a, b, ratio: ratio <= 1 / LEAST,
            )
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--size-mib", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--directory", help="where the files go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        save("convert_gguf", rows(written(directory, options.size_mib), options.blocks))


if __name__ == "__main__":
    main()
