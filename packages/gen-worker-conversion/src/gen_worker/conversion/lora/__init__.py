"""Adapters of low rank (LoRA): read and written in any format, merged, resized, extracted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.lora.adapter import Adapter, LowRank
    from gen_worker.conversion.lora.extracting import Extracted, extract_adapter, extract_layers
    from gen_worker.conversion.lora.facts import AdapterComponent, AdapterFacts, adapter_facts
    from gen_worker.conversion.lora.merging import merge_adapters, merge_lora
    from gen_worker.conversion.lora.reading import open_adapter
    from gen_worker.conversion.lora.resizing import resize_adapter
    from gen_worker.conversion.lora.writing import WrittenAdapter, convert_lora, write_adapter

__all__ = [
    "Adapter",
    "AdapterComponent",
    "AdapterFacts",
    "Extracted",
    "LowRank",
    "WrittenAdapter",
    "adapter_facts",
    "convert_lora",
    "extract_adapter",
    "extract_layers",
    "merge_adapters",
    "merge_lora",
    "open_adapter",
    "resize_adapter",
    "write_adapter",
]

_MODULES = {
    "adapter": ("Adapter", "LowRank"),
    "extracting": ("Extracted", "extract_adapter", "extract_layers"),
    "facts": ("AdapterComponent", "AdapterFacts", "adapter_facts"),
    "merging": ("merge_adapters", "merge_lora"),
    "reading": ("open_adapter",),
    "resizing": ("resize_adapter",),
    "writing": ("WrittenAdapter", "convert_lora", "write_adapter"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
