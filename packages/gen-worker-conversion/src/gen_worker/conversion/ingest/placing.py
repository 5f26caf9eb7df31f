"""Files of a shared cache under names of their own in a directory."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from gen_worker.models.formats import SAFE_SUFFIXES
from gen_worker.models.sources.replacing import replacing
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["place_files"]


def place_files(files: Mapping[str, str], output_dir: str) -> int:
    """Put files at their places; blocks.

    Weights become hard links where the disk allows it; other files are copied, so that whoever
    edits a configuration does not edit the cache.

    Args:
        files: Where each is, by its path below `output_dir`.
        output_dir: Made when absent. Files that are there already are replaced.

    Returns:
        Bytes of all files.

    Raises:
        ValueError: A path leads out of the directory.
    """
    os.makedirs(output_dir, exist_ok=True)
    size = 0
    for path, source in files.items():
        real = os.path.realpath(source)
        with replacing(safe_join(output_dir, path)) as draft:
            if not _is_linked(real, draft, path):
                shutil.copyfile(real, draft)
        size += os.stat(real).st_size
    return size


def _is_linked(source: str, place: str, path: str) -> bool:
    if os.path.splitext(path)[1].lower() in SAFE_SUFFIXES:
        with suppress(OSError):
            os.link(source, place)
            return True
    return False
