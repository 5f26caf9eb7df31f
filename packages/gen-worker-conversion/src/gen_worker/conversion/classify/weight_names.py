"""What the name of a weights file says, and the precision of one that is here."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.vocabulary import CONCRETE_DTYPES
from gen_worker.models.formats import UNSAFE_SUFFIXES, read_header

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "WeightFileInfo",
    "filter_by_source_dtype_preference",
    "gguf_quant_of",
    "parse_weight_file",
    "read_safetensors_header_dtype",
    "token_of_dtype",
]

_TOKENS = "bf16|fp16|fp32|fp8_e4m3|fp8_e5m2|fp8|int8|int4|nf4|nvfp4"
_STEM = re.compile(
    rf"(?P<base>.+?)(?:[._-](?P<before>{_TOKENS}))?"
    r"(?:-(?P<number>\d{5})-of-(?P<count>\d{5}))?"
    rf"(?:[._-](?P<after>{_TOKENS}))?",
    re.IGNORECASE | re.DOTALL,
)
_SUFFIXES = frozenset({".safetensors", ".gguf"}) | UNSAFE_SUFFIXES
_GGUF = re.compile(
    "(?:^|[-._])("
    + "|".join(
        sorted(
            (name for name in CONCRETE_DTYPES if re.match(r"i?q\d|b?f\d", name)),
            key=len,
            reverse=True,
        )
    )
    + r"|fp16|fp32)(?=$|[-.])",
    re.IGNORECASE,
)
_GGUF_FLOATS = {"fp16": "f16", "fp32": "f32"}
_TOKEN_OF_DTYPE = {
    "F64": "fp64",
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F8_E4M3": "fp8:e4m3",
    "F8_E5M2": "fp8:e5m2",
    "I8": "int8",
}
_DEFAULT_ORDER = ("bf16", "fp16", "fp32")
_UNNAMED = "fp32"


class WeightFileInfo(NamedTuple):
    """The parts of a weights file's name."""

    rel_path: str
    component: str
    """Folder; empty at the root."""
    base_key: str
    """The path without precision, shard and extension: alternatives of each other share it."""
    dtype: str
    """`fp32` when the name says nothing."""
    extension: str
    is_sharded: bool
    shard_index: int
    """From 1; 0 when it is whole."""
    shard_count: int


def parse_weight_file(rel: str) -> WeightFileInfo | None:
    """Return what a path says; None when it is no weights file."""
    folder, _, name = rel.rpartition("/")
    stem, extension = os.path.splitext(name)
    if extension.lower() not in _SUFFIXES:
        return None
    match = _STEM.fullmatch(stem)
    assert match is not None, "any stem matches as a base"
    dtype = (match["before"] or match["after"] or _UNNAMED).lower()
    if extension.lower() == ".gguf":
        dtype = gguf_quant_of(name)
    number, count = int(match["number"] or 0), int(match["count"] or 0)
    base = f"{folder}/{match['base']}" if folder else match["base"]
    return WeightFileInfo(rel, folder, base, dtype, extension.lower(), bool(count), number, count)


def gguf_quant_of(name: str) -> str:
    """Return the quantization in the name of a GGUF file, as `iq2_xxs`; empty without one."""
    found = _GGUF.findall(name)
    token = str(found[-1]).lower() if found else ""
    return _GGUF_FLOATS.get(token, token)


def filter_by_source_dtype_preference(
    files: Iterable[str], *, preference: Sequence[str]
) -> tuple[list[str], list[str], dict[str, str]]:
    """Keep one precision of each set of weights, by the names alone.

    Args:
        files: Paths; those of other files are all kept.
        preference: Precisions such as `fp16`, the most welcome first; where a model has none of
            them, bf16, fp16 and fp32 are taken in this order, else what there is.

    Returns:
        Kept, dropped, and the precision taken by what its files are called without it.
    """
    paths = list(files)
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path in paths:
        info = parse_weight_file(path)
        if info is not None:
            alternatives = groups.setdefault((info.base_key, info.extension), {})
            alternatives.setdefault(info.dtype, []).append(path)
    order = [*(one.replace(":", "_") for one in preference), *_DEFAULT_ORDER]
    dropped: set[str] = set()
    chosen: dict[str, str] = {}
    for (base, _), alternatives in groups.items():
        taken = next((one for one in order if one in alternatives), min(alternatives))
        chosen[base] = taken
        dropped.update(path for one in alternatives if one != taken for path in alternatives[one])
    return (
        [path for path in paths if path not in dropped],
        [path for path in paths if path in dropped],
        chosen,
    )


def read_safetensors_header_dtype(path: str | os.PathLike[str]) -> str:
    """Return the precision of a file's largest tensor, such as `bf16`; empty without tensors.

    Raises:
        OSError: The file cannot be opened.
        DamagedFileError: It is no sound safetensors file.
        UnsafeFileFormat: It is a pickle or an archive under another name.
    """
    tensors = read_header(os.fspath(path)).tensors
    if not tensors:
        return ""
    return token_of_dtype(max(tensors.values(), key=lambda tensor: tensor.size_bytes).dtype)


def token_of_dtype(dtype: str) -> str:
    """Return what a dtype of a safetensors header is called here."""
    return _TOKEN_OF_DTYPE.get(dtype, dtype.lower())
