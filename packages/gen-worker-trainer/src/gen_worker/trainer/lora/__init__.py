"""Low-rank adapters for models of transformers and diffusers, and any other module, on peft."""

from __future__ import annotations

from gen_worker.trainer.lora.attaching import (
    BaseModel,
    attach_lora,
    base_model_of,
    default_targets,
    trainable_names,
)
from gen_worker.trainer.lora.files import load_lora, save_lora
from gen_worker.trainer.lora.merging import merged_copy, save_merged

__all__ = [
    "BaseModel",
    "attach_lora",
    "base_model_of",
    "default_targets",
    "load_lora",
    "merged_copy",
    "save_lora",
    "save_merged",
    "trainable_names",
]
