"""Read safetensors files into tensors: in parallel, one allocation per file, hashed on the way.

Every header is checked before a byte of a tensor is read. What is in the page cache is mapped,
what is not is read past it; a GPU is fed through page-locked buffers, one stream per thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.models.reader.backends import Backend, available_backends
    from gen_worker.models.reader.memory import HostMemory
    from gen_worker.models.reader.placing import FileRead
    from gen_worker.models.reader.reading import read_files, read_tensors
    from gen_worker.models.reader.state_dicts import load_state_dict

__all__ = [
    "Backend",
    "FileRead",
    "HostMemory",
    "available_backends",
    "load_state_dict",
    "read_files",
    "read_tensors",
]

_MODULES = {
    "backends": ("Backend", "available_backends"),
    "memory": ("HostMemory",),
    "placing": ("FileRead",),
    "reading": ("read_files", "read_tensors"),
    "state_dicts": ("load_state_dict",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
