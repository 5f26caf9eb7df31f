"""What classification knows of a repository, and what it says about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from gen_worker.models.formats.headers import DTYPE_BITS
from gen_worker.models.sources.precisions import OF_DTYPE

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Classification",
    "ClassificationInputs",
    "SafetensorsFacts",
    "Strategy",
    "safetensors_facts",
]

Strategy = Literal[
    "sentence_transformers",
    "peft_canonical",
    "diffusers",
    "transformers",
    "gguf",
    "native_lora",
    "aio_singlefile",
]


class SafetensorsFacts(NamedTuple):
    """What the header of a safetensors file says."""

    names: frozenset[str] = frozenset()
    """Of its tensors."""
    dtypes: frozenset[str] = frozenset()
    dtype: str = ""
    """That most of its bytes have, such as `BF16`."""
    metadata: Mapping[str, str] = {}

    @property
    def precision(self) -> str:
        """`bf16`, `fp16`, `fp32` or `fp8`; empty when most of it is something else."""
        return OF_DTYPE.get(self.dtype, "")


class ClassificationInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a repository without its weights."""

    sizes: Mapping[str, int]
    """Of all its files, by path."""
    ref: str = ""
    """For messages, and for what is known of well-known repositories."""
    documents: Mapping[str, Any] = {}
    """Its small files of JSON, decoded, by path; None where one could not be read."""
    card: Mapping[str, Any] = {}
    """Front matter of its model card."""
    headers: Mapping[str, SafetensorsFacts] = {}
    """Of the safetensors files whose headers were read, by path: that of the largest one at the
    root, and those of weights that stand for each other."""

    @property
    def root_files(self) -> tuple[str, ...]:
        return tuple(sorted(path for path in self.sizes if "/" not in path))

    @property
    def largest_root(self) -> str:
        """The largest safetensors file at the root; empty when there is none."""
        here = [path for path in self.root_files if path.endswith(".safetensors")]
        return max(here, key=lambda path: (self.sizes[path], path), default="")

    def document(self, path: str) -> dict[str, Any]:
        """Return a file of JSON that is an object; else an empty one."""
        found = self.documents.get(path)
        return found if isinstance(found, dict) else {}


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository is, and which of its files are that."""

    strategy: Strategy
    runtime_library: str
    files: tuple[str, ...]
    """To fetch: the smallest set that loads."""
    selected_bytes: int
    skipped: tuple[str, ...]
    """The other files."""
    skipped_bytes: int
    subtype: str = ""
    attributes: Mapping[str, str] = {}
    selections: Mapping[str, str] = {}
    """Which precision was taken, by component; the root is the empty name."""
    pickle_files_refused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def safetensors_facts(header: Any) -> SafetensorsFacts:
    """Read a decoded header; what makes no sense in it is left out."""
    if not isinstance(header, dict):
        return SafetensorsFacts()
    told = header.get("__metadata__")
    metadata = told.items() if isinstance(told, dict) else ()
    entries = {
        name: entry
        for name, entry in header.items()
        if name != "__metadata__" and isinstance(entry, dict)
    }
    sizes: dict[str, int] = {}
    for entry in entries.values():
        dtype = entry.get("dtype")
        if isinstance(dtype, str):
            sizes[dtype] = sizes.get(dtype, 0) + _elements(entry.get("shape")) * _bits(dtype)
    return SafetensorsFacts(
        frozenset(entries),
        frozenset(sizes),
        max(sizes, key=lambda dtype: (sizes[dtype], dtype), default=""),
        {str(key): str(value) for key, value in metadata},
    )


def _bits(dtype: str) -> int:
    return DTYPE_BITS.get(dtype, 8)


def _elements(shape: Iterable[Any] | None) -> int:
    count = 1
    for size in shape if isinstance(shape, list) else ():
        count *= size if isinstance(size, int) and size >= 0 else 0
    return count
