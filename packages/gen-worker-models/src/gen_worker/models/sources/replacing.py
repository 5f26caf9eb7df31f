"""Files that take their places at once: whoever looks sees the old one or the new one."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["link", "replacing"]


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """Give a name beside `path` for the new file, which takes its place when the block is over."""
    draft = f"{path}.{secrets.token_hex(8)}.tmp"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        yield draft
        os.replace(draft, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)


def link(path: str, file: str) -> None:
    """Let `path` be another name of `file`: a link, or a copy where there are none."""
    with replacing(path) as draft:
        for attempt in (_symlink, os.link):
            with suppress(OSError):
                attempt(file, draft)
                return
        shutil.copyfile(file, draft)


def _symlink(file: str, path: str) -> None:
    os.symlink(os.path.relpath(file, os.path.dirname(path)), path)
