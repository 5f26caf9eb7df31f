"""Refusing unsafe weights by the list of a model's files, before the weights are fetched."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from gen_worker.errors import ModelResolutionError
from gen_worker.models.formats.unsafe import SAFE_SUFFIXES, UNSAFE_SUFFIXES, only_unsafe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["LOADABLE_SUFFIXES", "refuse_unsafe", "suffix_of"]

_FLASHPACK = ".flashpack"
LOADABLE_SUFFIXES = SAFE_SUFFIXES - {_FLASHPACK}
"""Of weights that are safe and that something here reads."""
_PART = re.compile(r"\.part\d{4}$")


def suffix_of(path: str) -> str:
    """Return what kind of file it is, in lower case; a part of a file in parts counts as it."""
    return os.path.splitext(_PART.sub("", path))[1].lower()


def refuse_unsafe(
    sizes: Mapping[str, int], ref: str, provider: str, components: Iterable[str] = ()
) -> None:
    """Refuse a model that has weights, and none in a format that is loaded.

    Args:
        sizes: Of its files, by path.
        ref: For messages.
        provider: For messages.
        components: Folders that must be loadable each for itself.

    Raises:
        UnsafeFileFormat: Its weights can run code while they are loaded.
        ModelResolutionError: They are FlashPack, which is not read.
    """
    for folder in ("", *components):
        below = [path for path in sizes if not folder or path.startswith(f"{folder}/")]
        if any(suffix_of(path) in LOADABLE_SUFFIXES for path in below):
            continue
        unsafe = [path for path in below if suffix_of(path) in UNSAFE_SUFFIXES]
        if unsafe:
            raise only_unsafe(sorted(unsafe, key=lambda path: (-sizes[path], path)), ref, folder)
        packed = [path for path in below if suffix_of(path) == _FLASHPACK]
        if packed:
            raise ModelResolutionError(
                f"model {ref!r} has its weights only as FlashPack, {packed[0]!r}, which is not "
                "read: publish them as safetensors",
                provider=provider,
                phase="resolve",
            )
