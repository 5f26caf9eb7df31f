"""Run by tests in a process of its own: quantizes 600 MB and tells the memory that it took."""

from __future__ import annotations

import json
import struct
import sys


def make(path: str) -> None:
    """Write two float32 weights of 300 MB of which most is a hole, so that it takes no time."""
    shape, size = [9600, 8192], 9600 * 8192 * 4
    names = ("blocks.0.one.weight", "blocks.0.two.weight")
    head = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [n * size, (n + 1) * size]}
        for n, name in enumerate(names)
    }
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2 * size)


def peak_bytes() -> int:
    """Return the most memory there was; `getrusage` counts that of the parent, too."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def main(source: str, out: str, method: str) -> None:
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: F401

    from gen_worker.conversion import open_checkpoint, write_safetensors
    from gen_worker.conversion.quantize import QuantizeOptions, quantize_checkpoint

    before = peak_bytes()
    name, _, granularity = method.partition("-")
    options = QuantizeOptions(granularity=granularity)
    made = quantize_checkpoint(open_checkpoint(source), name, None, options)
    write_safetensors(made.tensors, out)
    print(peak_bytes() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
