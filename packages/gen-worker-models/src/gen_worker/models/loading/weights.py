"""Which files hold the weights of one component, and how much memory they take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.formats import DTYPE_BITS, Header, read_header, read_index
from gen_worker.models.loading.dtypes import FLOAT_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Weights", "find_weights", "gguf_file", "size_bytes_of"]

_BASES = ("diffusion_pytorch_model", "model")
_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


class Weights(NamedTuple):
    """The weights of one component, their headers checked."""

    files: tuple[str, ...]
    headers: tuple[Header, ...]
    variant: str = ""


def find_weights(directory: str, variants: Sequence[str] = ("",)) -> Weights | None:
    """Return the safetensors weights a library would take from a directory; None without any.

    Args:
        directory: Of the component.
        variants: Which to take, the first that is there.

    Raises:
        DamagedFileError: A file does not fit its header, or an index its files.
    """
    for variant in variants:
        for base in _BASES:
            index = os.path.join(directory, _index_name(base, variant))
            if os.path.isfile(index):
                shards = read_index(index).shards
                return Weights(tuple(shards), tuple(shards.values()), variant)
            file = os.path.join(directory, _file_name(base, variant))
            if os.path.isfile(file):
                return Weights((file,), (read_header(file),), variant)
    return None


def _file_name(base: str, variant: str) -> str:
    return f"{base}.{variant}.safetensors" if variant else f"{base}.safetensors"


def _index_name(base: str, variant: str) -> str:
    # diffusers and transformers put the variant before `json`, not before `safetensors`.
    name = f"{base}.safetensors.index"
    return f"{name}.{variant}.json" if variant else f"{name}.json"


def size_bytes_of(headers: Iterable[Header], dtype: str = "") -> int:
    """Return the memory the tensors take; floating ones as `dtype`, the others as they are."""
    element = FLOAT_DTYPES.get(dtype, 0)
    return sum(
        tensor.size_bytes * 8 * element // DTYPE_BITS[tensor.dtype]
        if element and tensor.dtype in _FLOATS
        else tensor.size_bytes
        for header in headers
        for tensor in header.tensors.values()
    )


def gguf_file(directory: str) -> str:
    """Return the GGUF file of a directory, not yet checked; empty when it has none.

    Of several the largest is taken: the others are usually projectors or vocabularies.
    """
    names = sorted(name for name in os.listdir(directory) if name.lower().endswith(".gguf"))
    paths = [os.path.join(directory, name) for name in names]
    return max(paths, key=os.path.getsize, default="")
