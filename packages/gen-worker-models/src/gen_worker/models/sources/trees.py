"""Looking at a model's directory."""

from __future__ import annotations

import os

from gen_worker.models.formats.plain_files import files_below

__all__ = ["files_in", "size_of"]


def files_in(root: str) -> tuple[str, ...]:
    """Return the paths of all files below `root`, relative to it, sorted."""
    return tuple(sorted(relative for _, relative in files_below(root)))


def size_of(root: str, files: tuple[str, ...]) -> int:
    """Return the bytes of files; one that is linked twice counts twice."""
    return sum(os.stat(os.path.join(root, *path.split("/"))).st_size for path in files)
