"""Run by tests in a process of its own: writes with a journal, or converts and tells its memory."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def journaled(source: str, out: str, journal: str) -> int:
    """Write in many files, a line on stdout for each step; return how many were there already."""
    from gen_worker.conversion import open_checkpoint, write_safetensors
    from gen_worker.conversion.lazy import cast
    from gen_worker.conversion.writer import Journal

    def progress(done: int, total: int) -> None:
        print(done, total, flush=True)

    written = write_safetensors(
        {name: cast(tensor, "BF16") for name, tensor in open_checkpoint(source).items()},
        out,
        max_shard_bytes=400_000,
        journal=Journal(journal),
        progress=progress,
    )
    return written.resumed


def peak_bytes() -> int:
    """Return the most memory there was; `getrusage` counts that of the parent, too."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def measured(source: str, out: str, *kinds: str) -> None:
    """Do several kinds of work; print the growth of the peak beyond that of `import torch`."""
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: F401

    before = peak_bytes()
    grown = {}
    for kind in kinds:
        _WORK[kind](source, f"{out}/{kind}")
        shutil.rmtree(f"{out}/{kind}")
        grown[kind] = peak_bytes() - before
    print(json.dumps(grown))


def _cast(source: str, out: str) -> None:
    from gen_worker.conversion import streaming_dtype_cast

    streaming_dtype_cast(source, out, target_dtype="bf16", shard_threshold=200 << 20)


def _copy(source: str, out: str) -> None:
    from gen_worker.conversion import shard_safetensors_by_offset

    shard_safetensors_by_offset(source, out, max_shard_bytes=100 << 20)


def _merge(source: str, out: str) -> None:
    from gen_worker.conversion import open_checkpoint, write_safetensors
    from gen_worker.conversion.lazy import combine, slerp

    one, other = open_checkpoint(source), open_checkpoint(source)
    write_safetensors(
        {
            name: slerp(one[name], other[name], 0.5)
            if name == "rows"
            else combine([(0.5, one[name]), (0.5, other[name])], "BF16")
            for name in one
        },
        out,
    )


def _whole(source: str, out: str) -> None:
    from gen_worker.conversion import open_checkpoint, write_safetensors
    from gen_worker.conversion.lazy import permute

    rows = open_checkpoint(source)["rows"]
    write_safetensors({"one": permute(rows, (1, 0)), "two": permute(rows, (1, 0))}, out)


def _loop(source: str, out: str) -> None:
    from gen_worker.conversion import Source, StreamingWriter

    writer = StreamingWriter(Source(source), out)
    for component, name, tensor in Source(source).iter_tensors():
        writer.write(component, name, tensor.bfloat16())
        del tensor
    writer.finalize()


_WORK: dict[str, Callable[[str, str], Any]] = {
    "cast": _cast,
    "copy": _copy,
    "merge": _merge,
    "whole": _whole,
    "loop": _loop,
}

if __name__ == "__main__":
    if sys.argv[1] == "journaled":
        journaled(*sys.argv[2:])
    else:
        measured(*sys.argv[2:])
