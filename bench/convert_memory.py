"""Memory of conversions of a large model: casts, blocks of GGUF, and what needs whole tensors.

The model is of zeros in a file that is a hole, so it takes no disk; the outputs do. Each conversion
runs in a process of its own, and its peak counts from after `import torch`. It hardly varies, so
one run is enough. The peer is what the same work holds when it keeps the model in memory (casts and
blocks), or the tensors that it cannot do without (whole tensors).

    python bench/convert_memory.py [--save] [--size-mib 12288] [--directory /var/tmp]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

from harness import Row, peak_mib, save

try:
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
except ImportError:
    print("bench/convert_memory.py is skipped: it needs torch")
    sys.exit(0)

from gen_worker.conversion import open_checkpoint, streaming_dtype_cast, write_safetensors
from gen_worker.conversion.gguf.packing import packed
from gen_worker.conversion.gguf.writing import write_gguf
from gen_worker.conversion.lazy import permute

SOURCE = "bench/convert_memory.py"
ROWS, COLUMNS = 16384, 8192
TENSOR_MIB = ROWS * COLUMNS * 4 >> 20
SLABS_MIB, WHOLE_MIB = 200, 300


def hollow(directory: str, size_mib: int) -> str:
    """Write a model of equal matrices of zeros, and return its path."""
    path = os.path.join(directory, "source.safetensors")
    size = TENSOR_MIB << 20
    header = {
        f"blk.{index}.weight": {
            "dtype": "F32",
            "shape": (ROWS, COLUMNS),
            "data_offsets": (index * size, (index + 1) * size),
        }
        for index in range(max(size_mib // TENSOR_MIB, 2))
    }
    text = json.dumps(header).encode()
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + len(header) * size)
    return path


def cast(path: str, out: str) -> None:
    streaming_dtype_cast(path, out, target_dtype="bf16")


def blocks(path: str, out: str) -> None:
    tensors = {name: packed(tensor, "Q8_0") for name, tensor in open_checkpoint(path).items()}
    write_gguf(tensors, {"general.architecture": "llama"}, os.path.join(out, "model.gguf"))


def transposition(path: str, out: str) -> None:
    first, second = list(open_checkpoint(path).items())[:2]
    write_safetensors({name: permute(tensor, (1, 0)) for name, tensor in (first, second)}, out)


WORK = {"cast": cast, "blocks": blocks, "transposition": transposition}


def print_memory(kind: str, path: str) -> None:
    before = peak_mib()
    WORK[kind](path, f"{path}.out")
    print(json.dumps(peak_mib() - before))


def row(name: str, kind: str, path: str, peer_mib: float, most_mib: float) -> Row:
    command = [sys.executable, __file__, "--memory-of", kind, "--directory", path]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        shutil.rmtree(f"{path}.out", ignore_errors=True)
    ours = float(json.loads(done.stdout))
    ratio = ours / peer_mib
    return Row(
        name=name,
        unit="MiB",
        ours=ours,
        peer=peer_mib,
        ratio=ratio,
        low=ratio,
        high=ratio,
        blocks=1,
        peer_source=SOURCE,
        goal=f"<= {most_mib:.0f} MiB",
        is_met=ours <= most_mib,
    )


def rows(path: str) -> list[Row]:
    size_mib = os.path.getsize(path) >> 20
    whole_mib = 2 * TENSOR_MIB
    return [
        row(f"cast of {size_mib} MiB to bf16", "cast", path, size_mib * 1.5, SLABS_MIB),
        row(f"Q8_0 of {size_mib} MiB", "blocks", path, size_mib * 1.25, SLABS_MIB),
        row(
            f"whole tensors of {TENSOR_MIB} MiB",
            "transposition",
            path,
            whole_mib,
            whole_mib + WHOLE_MIB,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--size-mib", type=int, default=12 << 10)
    parser.add_argument("--directory", help="where the files go")
    parser.add_argument("--memory-of", choices=sorted(WORK), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print_memory(options.memory_of, options.directory)
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        save("convert_memory", rows(hollow(directory, options.size_mib)))


if __name__ == "__main__":
    main()
