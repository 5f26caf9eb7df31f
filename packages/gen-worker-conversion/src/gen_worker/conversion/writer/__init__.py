"""Safetensors files of any size, written slab by slab: read, converted and written at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.writer.incremental import IncrementalSafetensorsWriter
    from gen_worker.conversion.writer.journal import Journal
    from gen_worker.conversion.writer.output_file import OutputFile, WrittenFile
    from gen_worker.conversion.writer.pipeline import pump
    from gen_worker.conversion.writer.safetensors import Written, write_safetensors
    from gen_worker.conversion.writer.shards import (
        MAX_SAFETENSORS_SHARD_BYTES,
        SafetensorsShardPlan,
        build_safetensors_index,
        plan_safetensors_shards,
    )

__all__ = [
    "MAX_SAFETENSORS_SHARD_BYTES",
    "IncrementalSafetensorsWriter",
    "Journal",
    "OutputFile",
    "SafetensorsShardPlan",
    "Written",
    "WrittenFile",
    "build_safetensors_index",
    "plan_safetensors_shards",
    "pump",
    "write_safetensors",
]

_MODULES = {
    "incremental": ("IncrementalSafetensorsWriter",),
    "journal": ("Journal",),
    "output_file": ("OutputFile", "WrittenFile"),
    "pipeline": ("pump",),
    "safetensors": ("Written", "write_safetensors"),
    "shards": (
        "MAX_SAFETENSORS_SHARD_BYTES",
        "SafetensorsShardPlan",
        "build_safetensors_index",
        "plan_safetensors_shards",
    ),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
