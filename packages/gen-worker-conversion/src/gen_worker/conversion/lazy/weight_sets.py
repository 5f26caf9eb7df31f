"""Which files of a directory are its weights: an index and its shards, or all files of a variant.

`<base>[.<variant>][-00001-of-00002].safetensors`; the index of diffusers and transformers is
`<base>.safetensors.index[.<variant>].json`, older ones have `<base>.<variant>.safetensors.index`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.models.formats import weight_files
from gen_worker.models.formats.unsafe import only_unsafe

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WeightSet", "holds_weights", "variant_of", "weight_set_of"]

_VARIANTS = ("", "fp32", "bf16", "fp16", "fp8", "fp8_e4m3", "fp8_e5m2", "int8", "int4", "nf4")
"""In the order in which they are chosen: the most precise first; plain files are as published."""
_BASES = ("diffusion_pytorch_model", "model")
"""Of those an index is preferred when there are several."""
_INDEX = re.compile(
    r"(?P<base>.+?)(\.(?P<old>\w+))?\.safetensors\.index(\.(?P<variant>[\w-]+))?\.json"
)
_FILE = re.compile(
    r"(?P<base>.+?)(-\d{5}-of-\d{5})?(\.(?P<variant>[\w-]+?))?(-\d{5}-of-\d{5})?\.safetensors",
    re.IGNORECASE,
)


class WeightSet(NamedTuple):
    """The weights of a component in one precision."""

    directory: str
    variant: str
    index_path: str
    """Empty without one."""
    files: tuple[str, ...]
    """Paths, sorted; with an index, what it names counts."""


def weight_set_of(directory: str, variant: str | None = None) -> WeightSet:
    """Choose the weights of a directory; those of directories below it are not looked at.

    Args:
        directory: Of one component.
        variant: None takes the most precise; empty the files without one.

    Raises:
        OSError: It cannot be read.
        UnsafeFileFormat: It has weights, and only in formats that can run code.
        ConversionInputError: It has none, or none of this variant.
    """
    names = sorted(entry.name for entry in os.scandir(directory) if entry.is_file())
    sets = _sets(directory, names)
    if not sets:
        raise _no_weights(directory)
    if variant is None:
        variant = min(sets, key=_rank)
    if variant not in sets:
        raise ConversionInputError(
            f"{directory!r} has no weights of the variant {variant!r}: there are "
            f"{', '.join(repr(name) for name in sorted(sets))}",
            file=directory,
        )
    return sets[variant]


def holds_weights(directory: str) -> bool:
    """Tell whether a directory itself has files with weights, of any format."""
    found = weight_files(directory)
    return any("/" not in path for path in (*found.safe, *found.unsafe))


def variant_of(name: str) -> str:
    """Return the variant in the name of a safetensors file; empty without one."""
    match = _FILE.fullmatch(name)
    found = match["variant"] if match else None
    return found.lower() if found and found.lower() in _VARIANTS else ""


def _sets(directory: str, names: Sequence[str]) -> dict[str, WeightSet]:
    indexes: dict[str, list[str]] = {}
    files: dict[str, list[str]] = {}
    for name in names:
        index = _INDEX.fullmatch(name)
        if index:
            indexes.setdefault(index["variant"] or _old_variant(index["old"]), []).append(name)
        elif name.lower().endswith(".safetensors"):
            files.setdefault(variant_of(name), []).append(name)
    found = {
        variant: WeightSet(directory, variant, "", _paths(directory, here))
        for variant, here in files.items()
    }
    for variant, here in indexes.items():
        index_path = os.path.join(directory, _preferred(directory, here))
        found[variant] = WeightSet(directory, variant, index_path, ())
    if found:
        return found
    packed = [name for name in names if name.lower().endswith(".gguf")]
    return {"": WeightSet(directory, "", "", _paths(directory, packed))} if packed else {}


def _old_variant(name: str | None) -> str:
    return name if name in _VARIANTS else ""


def _paths(directory: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(os.path.join(directory, name) for name in names)


def _preferred(directory: str, indexes: Sequence[str]) -> str:
    if len(indexes) == 1:
        return indexes[0]
    known = [name for base in _BASES for name in indexes if name.startswith(f"{base}.")]
    if not known:
        raise ConversionInputError(
            f"{directory!r} has several indexes, {', '.join(map(repr, indexes))}: name the one "
            "to read",
            file=directory,
        )
    return known[0]


def _rank(variant: str) -> tuple[int, str]:
    known = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)
    return known, variant


def _no_weights(directory: str) -> Exception:
    found = weight_files(directory)
    here = tuple(path for path in found.unsafe if "/" not in path)
    if here:
        return only_unsafe(here, directory)
    return ConversionInputError(
        f"{directory!r} has no weights: give a directory with safetensors or GGUF files",
        file=directory,
    )
