"""Every way to write weights, into places that cannot take them; also a process on a small disk."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 512
TENSORS = 6


def make_sources(root: Path) -> None:
    """Write small models of each kind that the writers below read; 64 KiB in each tensor."""
    names = [f"layer.{number}.weight" for number in range(TENSORS)]
    whole = safetensors(dict.fromkeys(names, (ROWS, 32)))
    for folder in (root / "model", root / "pipeline" / "unet", root / "pipeline" / "vae"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"torch_dtype": "float32"}')
        (folder / "model.safetensors").write_bytes(whole)
    index = {"_class_name": "X", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}
    (root / "pipeline" / "model_index.json").write_text(json.dumps(index))
    (root / "shards").mkdir()
    weight_map = {}
    for number, name in enumerate(names):
        file = f"model-{number + 1:05d}-of-{TENSORS:05d}.safetensors"
        (root / "shards" / file).write_bytes(safetensors({name: (ROWS, 32)}))
        weight_map[name] = file
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (root / "shards" / "model.safetensors.index.json").write_text(text)
    sides = {"lora_A": (2, 32), "lora_B": (ROWS, 2)}
    adapter = {f"base_model.model.layer.0.{side}.weight": size for side, size in sides.items()}
    (root / "adapter.safetensors").write_bytes(safetensors(adapter))
    write_gguf_source(root / "model.gguf", names)


def safetensors(shapes: dict[str, tuple[int, int]]) -> bytes:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<f", 0.5) * (end // 4)


def write_gguf_source(path: Path, names: list[str]) -> None:
    from gen_worker.conversion.gguf.container import TensorEntry, gguf_header

    entries = {name: TensorEntry("F32", (ROWS, 32)) for name in names}
    header = gguf_header({"general.architecture": "llama"}, entries)
    path.write_bytes(header.content + bytes(header.size_bytes - len(header.content)))


def converted(root: Path, out: Path, source: str, *targets: str, **options: Any) -> None:
    from gen_worker.conversion.convert import plan_conversion, run_conversion

    plan = plan_conversion(root / source, targets, out=out, max_shard_bytes=100_000, **options)
    run_conversion(plan, progress=lambda _progress: MEANWHILE())


def cast(root: Path, out: Path) -> None:
    from gen_worker.conversion.streaming import streaming_dtype_cast

    streaming_dtype_cast(
        root / "model" / "model.safetensors",
        out,
        target_dtype="bf16",
        shard_threshold=50_000,
        progress=told,
    )


def told(_done: int, _total: int) -> None:
    MEANWHILE()


def looped(root: Path, out: Path) -> None:
    from gen_worker.conversion import Source, StreamingWriter

    writer = StreamingWriter(root / "model", out)
    for component, name, tensor in Source(root / "model").iter_tensors():
        writer.write(component, name, tensor)
        MEANWHILE()
    writer.finalize()


def incremental(root: Path, out: Path) -> None:
    from gen_worker.conversion.writer import IncrementalSafetensorsWriter

    with IncrementalSafetensorsWriter(out / "one.safetensors") as writer:
        writer.add_tensor_metadata("a", dtype="U8", shape=[400_000])
        writer.write_header()
        MEANWHILE()
        writer.write_tensor("a", bytes(400_000))


def split_gguf(root: Path, out: Path) -> None:
    from gen_worker.conversion.gguf import plan_gguf_file, write_gguf

    plan = plan_gguf_file(root / "model.gguf", "f16")
    file = out / "made.gguf"
    write_gguf(plan.tensors, plan.metadata, file, split_max_bytes=100_000, progress=told)


def sharded(root: Path, out: Path) -> None:
    from gen_worker.conversion.streaming import shard_safetensors_by_offset

    MEANWHILE()
    shard_safetensors_by_offset(root / "model" / "model.safetensors", out, max_shard_bytes=50_000)


def joined(root: Path, out: Path) -> None:
    from gen_worker.conversion.streaming import materialize_safetensors_input

    MEANWHILE()
    materialize_safetensors_input(root / "shards" / "model.safetensors.index.json", out)


def merged(root: Path, out: Path) -> None:
    from gen_worker.conversion.merge import merge_models

    MEANWHILE()
    merge_models([(root / "pipeline", 0.5), (root / "pipeline", 0.5)], out)


def with_adapter(root: Path, out: Path) -> None:
    from gen_worker.conversion.lora import merge_lora

    MEANWHILE()
    merge_lora(root / "model", out, [(root / "adapter.safetensors", 1.0)])


def copied(root: Path, out: Path) -> None:
    from gen_worker.conversion.output_writer import copy_unconverted_components

    MEANWHILE()
    copy_unconverted_components(root / "pipeline", out)


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "run": lambda root, out: converted(root, out, "model", "bf16"),
    "run of several": lambda root, out: converted(root, out, "shards", "bf16", "fp16"),
    "run of a pipeline": lambda root, out: converted(
        root, out, "pipeline", "bf16", components=["unet"]
    ),
    "run of gguf": lambda root, out: converted(root, out, "model.gguf", "gguf:q8_0"),
    "cast": cast,
    "loop": looped,
    "incremental": incremental,
    "gguf": split_gguf,
    "shard": sharded,
    "join": joined,
    "merge": merged,
    "adapter": with_adapter,
    "copy": copied,
}


def nothing() -> None: ...


MEANWHILE: Callable[[], None] = nothing
"""Called by writers once they have begun."""


def left_after(writer: str, root: Path, out: Path) -> dict[str, Any]:
    """Run a writer that has to fail; return its error, and what is there that was not before."""
    before = names_below(root)
    error: Exception | None = None
    try:
        WRITERS[writer](root, out)
    except Exception as caught:
        error = caught
    kinds = [kind.__name__ for kind in type(error).__mro__]
    left = sorted(names_below(root) - before)
    return {"kinds": kinds, "text": str(error), "file": getattr(error, "file", ""), "left": left}


def names_below(root: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(parent, name), root)
        for parent, directories, names in os.walk(root)
        for name in (*directories, *names)
    }


def on_a_small_disk(sources: str, disk: str) -> None:
    """Fill a disk while each writer works, then forbid to write there; print what came of it."""
    global MEANWHILE
    import tempfile

    filler = os.path.join(disk, "filler")
    tempfile.tempdir = disk

    def fill() -> None:
        free = os.statvfs(disk)
        with open(filler, "ab", buffering=0) as file:
            try:
                while file.write(bytes(free.f_frsize)):
                    pass
            except OSError:
                return

    told: dict[str, dict[str, Any]] = {"full": {}, "read-only": {}}
    os.symlink(sources, os.path.join(disk, "sources"))
    for writer in WRITERS:
        MEANWHILE = fill
        told["full"][writer] = _on(disk, writer, sources)
        os.unlink(filler)
    MEANWHILE = nothing
    os.system(f"mount -o remount,ro '{disk}'")
    for writer in WRITERS:
        told["read-only"][writer] = _on(disk, writer, sources)
    print(json.dumps(told))


def _on(disk: str, writer: str, sources: str) -> dict[str, Any]:
    before = names_below(Path(disk))
    found = left_after(writer, Path(sources), Path(disk, "new", "out"))
    left = sorted(names_below(Path(disk)) - before - {"filler"})
    shutil.rmtree(os.path.join(disk, "new"), ignore_errors=True)
    return {**found, "left": [*found["left"], *left]}


if __name__ == "__main__":
    on_a_small_disk(*sys.argv[1:])
