"""The file beside a socket that says who serves it, and that it is ready."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.runtime.ndjson.address import UnixAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.ndjson.address import TcpAddress

__all__ = ["Identity", "identity_of", "read_sidecar", "sidecar_path", "write_sidecar"]

Identity = tuple[int, int, int]
"""Tells a file from a later one of the same name."""


def sidecar_path(address: UnixAddress | TcpAddress) -> str:
    """Return where a server on `address`, started in this directory, announces itself."""
    if isinstance(address, UnixAddress):
        return f"{address.path}.json"
    return os.path.abspath(".gen-worker.serve.json")


def read_sidecar(path: str) -> dict[str, Any]:
    """Return what is announced there; empty when nothing readable is."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, Any])
    except (OSError, ValueError):
        return {}


def write_sidecar(path: str, document: Mapping[str, object]) -> Identity:
    """Write the file, for its owner's eyes only, in one step: readers see all of it or none.

    Returns:
        The `identity_of` the new file.
    """
    temporary = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(document) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        identity = identity_of(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    assert identity is not None
    return identity


def identity_of(path: str) -> Identity | None:
    """Return which file this is; None when there is none.

    An inode number alone would not say: it is given away again once its file is gone.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns
