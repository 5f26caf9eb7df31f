"""Adapters of low rank (LoRA): read from any of their formats, written in any, merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.lora.adapter import Adapter, LowRank
    from gen_worker.conversion.lora.merging import merge_adapters, merge_lora
    from gen_worker.conversion.lora.reading import open_adapter
    from gen_worker.conversion.lora.writing import WrittenAdapter, convert_lora, write_adapter

__all__ = [
    "Adapter",
    "LowRank",
    "WrittenAdapter",
    "convert_lora",
    "merge_adapters",
    "merge_lora",
    "open_adapter",
    "write_adapter",
]

_MODULES = {
    "adapter": ("Adapter", "LowRank"),
    "merging": ("merge_adapters", "merge_lora"),
    "reading": ("open_adapter",),
    "writing": ("WrittenAdapter", "convert_lora", "write_adapter"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
