"""Run by a test in a process of its own: extracts an adapter and tells its memory."""

from __future__ import annotations

import json
import sys


def peak_bytes() -> int:
    """Return the most memory there was; `getrusage` counts that of the parent, too."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def measured(folder: str, rank: str) -> None:
    """Print the growth of the peak beyond that of `import torch`."""
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: F401

    from gen_worker.conversion.lazy import open_checkpoint
    from gen_worker.conversion.lora import extract_layers

    before = peak_bytes()
    models = [open_checkpoint(f"{folder}/{name}.safetensors") for name in ("base", "tuned")]
    for layer in extract_layers(*models, rank=int(rank)).layers.values():
        layer.down.tensor()
        layer.up.tensor()
    print(json.dumps(peak_bytes() - before))


if __name__ == "__main__":
    measured(*sys.argv[1:])
