"""Run by a test in a process of its own: packs a model and tells its memory."""

from __future__ import annotations

import json
import shutil
import sys


def peak_bytes() -> int:
    """Return the most memory there was; `getrusage` counts that of the parent, too."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def measured(source: str, out: str, type_name: str) -> None:
    """Print the growth of the peak beyond that of `import torch`."""
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: F401

    from gen_worker.conversion.gguf.experts import stacked_experts
    from gen_worker.conversion.gguf.packing import packed
    from gen_worker.conversion.gguf.tensor_names import interleaved
    from gen_worker.conversion.gguf.writing import write_gguf
    from gen_worker.conversion.lazy import open_checkpoint

    before = peak_bytes()
    tensors = {
        name: packed(interleaved(tensor, 16) if name == "rows" else tensor, type_name)
        for name, tensor in stacked_experts(open_checkpoint(source), {"num_experts": 8}).items()
    }
    write_gguf(tensors, {}, f"{out}/made/m.gguf", split_max_bytes=64 << 20)
    shutil.rmtree(f"{out}/made")
    print(json.dumps(peak_bytes() - before))


if __name__ == "__main__":
    measured(*sys.argv[1:])
