"""GGUF: blocks of quantized values, and files of them.

`plan_language_model`, `plan_diffusion_model`, `plan_lora`, `plan_gguf_file` and `plan_gguf_copy`
work out what goes into a file; `write_gguf` writes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.conversion.gguf.adapters import plan_lora
    from gen_worker.conversion.gguf.container import Number, Value
    from gen_worker.conversion.gguf.diffusion import DIFFUSION_ARCHITECTURES, plan_diffusion_model
    from gen_worker.conversion.gguf.errors import GgufSourceError
    from gen_worker.conversion.gguf.files import (
        plan_gguf_copy,
        plan_gguf_file,
        transformers_weights,
        unpacked,
    )
    from gen_worker.conversion.gguf.headers import GgufHeaderFacts, parse_gguf_header
    from gen_worker.conversion.gguf.importance import Importance, read_importance
    from gen_worker.conversion.gguf.mixes import Fallback
    from gen_worker.conversion.gguf.models import GgufPlan, plan_language_model
    from gen_worker.conversion.gguf.packing import packed
    from gen_worker.conversion.gguf.types import NOT_WRITTEN, WRITTEN, FileType, file_type
    from gen_worker.conversion.gguf.writing import WrittenGguf, write_gguf

__all__ = [
    "DIFFUSION_ARCHITECTURES",
    "NOT_WRITTEN",
    "WRITTEN",
    "Fallback",
    "FileType",
    "GgufHeaderFacts",
    "GgufPlan",
    "GgufSourceError",
    "Importance",
    "Number",
    "Value",
    "WrittenGguf",
    "file_type",
    "packed",
    "parse_gguf_header",
    "plan_diffusion_model",
    "plan_gguf_copy",
    "plan_gguf_file",
    "plan_language_model",
    "plan_lora",
    "read_importance",
    "transformers_weights",
    "unpacked",
    "write_gguf",
]

_MODULES = {
    "adapters": ("plan_lora",),
    "container": ("Number", "Value"),
    "diffusion": ("DIFFUSION_ARCHITECTURES", "plan_diffusion_model"),
    "errors": ("GgufSourceError",),
    "files": ("plan_gguf_copy", "plan_gguf_file", "transformers_weights", "unpacked"),
    "headers": ("GgufHeaderFacts", "parse_gguf_header"),
    "importance": ("Importance", "read_importance"),
    "mixes": ("Fallback",),
    "models": ("GgufPlan", "plan_language_model"),
    "packing": ("packed",),
    "types": ("NOT_WRITTEN", "WRITTEN", "FileType", "file_type"),
    "writing": ("WrittenGguf", "write_gguf"),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
