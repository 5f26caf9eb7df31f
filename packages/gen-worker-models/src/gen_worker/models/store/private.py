"""Files that nobody else may read, made once and whole."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from gen_worker.models.store.durable import fsync_directory

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read_or_write_private"]


def read_or_write_private(path: str, make: Callable[[], bytes]) -> bytes:
    """Return what a file holds, which is made the first time, readable by its owner only.

    Args:
        path: Its folder is made where there is none.
        make: Returns what it is to hold; of two processes at once, one's is kept.

    Raises:
        OSError: It cannot be read or made.
    """
    with suppress(FileNotFoundError):
        with open(path, "rb") as file:
            return file.read()
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.remove(temporary)
    fsync_directory(folder)
    with open(path, "rb") as file:
        return file.read()
