"""What is in a model's files, read without trusting them and without running anything.

Headers are checked against the size of their file before a single tensor is touched, formats that
can run code are refused, and configurations lose what would make a library run code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.formats.configs import (
        ConfigChange,
        config_changes,
        sanitize_config,
    )
    from gen_worker.models.formats.content import Content, content_of
    from gen_worker.models.formats.damage import (
        DamagedFileError,
        DamagedGgufError,
        DamagedIndexError,
        DamagedSafetensorsError,
        WrongFormatError,
    )
    from gen_worker.models.formats.gguf import GgufHeader, GgufTensor, read_gguf_header
    from gen_worker.models.formats.headers import DTYPE_BITS, Header, TensorInfo, read_header
    from gen_worker.models.formats.shards import ShardedIndex, read_index
    from gen_worker.models.formats.unsafe import (
        SAFE_SUFFIXES,
        UNSAFE_SUFFIXES,
        UnsafeFileFormat,
        WeightFiles,
        assert_loadable,
        assert_safe_weight_format,
        check_weight_formats,
        weight_files,
    )

__all__ = [
    "DTYPE_BITS",
    "SAFE_SUFFIXES",
    "UNSAFE_SUFFIXES",
    "ConfigChange",
    "Content",
    "DamagedFileError",
    "DamagedGgufError",
    "DamagedIndexError",
    "DamagedSafetensorsError",
    "GgufHeader",
    "GgufTensor",
    "Header",
    "ShardedIndex",
    "TensorInfo",
    "UnsafeFileFormat",
    "WeightFiles",
    "WrongFormatError",
    "assert_loadable",
    "assert_safe_weight_format",
    "check_weight_formats",
    "config_changes",
    "content_of",
    "read_gguf_header",
    "read_header",
    "read_index",
    "sanitize_config",
    "weight_files",
]

_MODULES = {
    "configs": ("ConfigChange", "config_changes", "sanitize_config"),
    "content": ("Content", "content_of"),
    "damage": (
        "DamagedFileError",
        "DamagedGgufError",
        "DamagedIndexError",
        "DamagedSafetensorsError",
        "WrongFormatError",
    ),
    "gguf": ("GgufHeader", "GgufTensor", "read_gguf_header"),
    "headers": ("DTYPE_BITS", "Header", "TensorInfo", "read_header"),
    "shards": ("ShardedIndex", "read_index"),
    "unsafe": (
        "SAFE_SUFFIXES",
        "UNSAFE_SUFFIXES",
        "UnsafeFileFormat",
        "WeightFiles",
        "assert_loadable",
        "assert_safe_weight_format",
        "check_weight_formats",
        "weight_files",
    ),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
