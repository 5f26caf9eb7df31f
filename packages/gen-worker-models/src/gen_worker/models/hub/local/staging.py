"""Parts of uploads as files whose names say what they are, and putting them together."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.hub.local.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Part", "assemble", "link_or_copy", "part_name", "parts_in"]

_PART = re.compile(r"part-(\d{5})\.([0-9a-f]{32})")
_MAX_PARTS = 10_000


class Part(NamedTuple):
    number: int
    etag: str
    size_bytes: int
    path: str


def parts_in(folder: str) -> list[Part]:
    """Return the parts in a folder, oldest first."""
    found = []
    for entry in _scan(folder):
        match = _PART.fullmatch(entry.name)
        if match is not None:
            state = entry.stat()
            part = Part(int(match[1]), match[2], state.st_size, entry.path)
            found.append((state.st_mtime_ns, part))
    return [part for _, part in sorted(found)]


def part_name(number: int, etag: str) -> str:
    if not 1 <= number <= _MAX_PARTS:
        raise Refusal(400, "invalid_part", f"parts count from 1 to {_MAX_PARTS}")
    return f"part-{number:05}.{etag}"


def assemble(paths: Sequence[str], target: str) -> None:
    """Write the files one behind the other; a single one is only linked."""
    if len(paths) == 1:
        link_or_copy(paths[0], target)
        return
    with open(target, "xb") as out:
        for path in paths:
            with open(path, "rb") as part:
                _append(part.fileno(), out.fileno(), os.fstat(part.fileno()).st_size)


def _append(source: int, target: int, size: int) -> None:
    """Copy within the kernel, which on some file systems copies nothing at all."""
    left = size
    try:
        while left:
            copied = os.copy_file_range(source, target, left)
            if not copied:
                break
            left -= copied
    except (OSError, AttributeError):  # another kernel or file system
        pass
    if left:
        os.lseek(source, size - left, os.SEEK_SET)
        with open(source, "rb", closefd=False) as rest, open(target, "ab", closefd=False) as out:
            shutil.copyfileobj(rest, out, 1024 * 1024)


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _scan(folder: str) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return ()
