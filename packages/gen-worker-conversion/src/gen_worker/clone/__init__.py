"""Models of Hugging Face and Civitai, imported: converted on the way, and published at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.clone.fetching import (
        fetch_civitai_file,
        fetch_huggingface_snapshot,
        parse_civitai_metadata,
        parse_huggingface_metadata,
    )
    from gen_worker.clone.importing import from_civitai, from_huggingface
    from gen_worker.clone.planning import ClonePlan, plan_clone
    from gen_worker.clone.records import CheckpointRef, CivitaiMeta, HFMeta
    from gen_worker.clone.size_facts import compute_size_facts
    from gen_worker.conversion.artifacts import ConversionOutput

__all__ = [
    "CheckpointRef",
    "CivitaiMeta",
    "ClonePlan",
    "ConversionOutput",
    "HFMeta",
    "compute_size_facts",
    "fetch_civitai_file",
    "fetch_huggingface_snapshot",
    "from_civitai",
    "from_huggingface",
    "parse_civitai_metadata",
    "parse_huggingface_metadata",
    "plan_clone",
]

_HERE = {
    "fetching": (
        "fetch_civitai_file",
        "fetch_huggingface_snapshot",
        "parse_civitai_metadata",
        "parse_huggingface_metadata",
    ),
    "importing": ("from_civitai", "from_huggingface"),
    "planning": ("ClonePlan", "plan_clone"),
    "records": ("CheckpointRef", "CivitaiMeta", "ConversionOutput", "HFMeta"),
    "size_facts": ("compute_size_facts",),
}
__getattr__, __dir__ = lazy_names(__name__, _HERE)
