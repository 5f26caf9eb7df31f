"""Opens an input file and says what it is, once it has passed every check.

Whoever sent the payload chose the file, and may be changing it: it is opened once, without waiting
for anybody, and what is checked is what is read.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

import msgspec

from gen_worker.context.media import HEAD_BYTES, weights_format
from gen_worker.errors import ValidationError
from gen_worker.runtime.files.input_checks import (
    check_image_size,
    check_size,
    checked_media_type,
)
from gen_worker.types import Asset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.ports import FileLimits
    from gen_worker.types import Tensors

    F = TypeVar("F", Asset, Tensors)

__all__ = ["Known", "described"]

_CHUNK_BYTES = 1024 * 1024


class Known(NamedTuple):
    """What whoever brought a file knows of it."""

    name: str = ""
    """What it is called in errors, and whose suffix counts; empty is the value's ref."""
    media_type: str | None = None
    """What its server calls it."""
    digests: Mapping[str, str] | None = None
    """`sha256` and `blake3`, computed while it came; None has it read once more."""
    usual_pixels: int = 0
    """Most pixels of an image whose annotation says nothing; 0 is no limit."""


_NOTHING = Known()


def described(value: F, path: str, limits: FileLimits, known: Known = _NOTHING) -> F:
    """Return a copy of `value` that says where its file is and what it is.

    Raises:
        ValidationError: It cannot be read, is no file, or not what `limits` or `value` itself say.
        InputTooLargeError: It is larger than `limits` allow.
    """
    name = known.name or value.ref or "inline file"
    facts: dict[str, Any] = {"local_path": path}
    try:
        with _opened(path, name) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            check_size(size_bytes, limits, "input file")
            head = file.read(HEAD_BYTES)
            if isinstance(value, Asset):
                facts["mime_type"] = _media_type(head, name, value, limits, known)
                check_image_size(file, name, limits, known.usual_pixels)
            elif value.format is None:
                facts["format"] = weights_format(name) or "unknown"
            if known.digests is None:
                facts |= _measured(file, limits, with_blake3=bool(value.blake3))
            else:
                facts |= {"size_bytes": size_bytes, **known.digests}
    except OSError as error:
        raise _unreadable(name, error) from error
    _check_promises(value, name, facts)
    return msgspec.structs.replace(value, **facts)


def _media_type(
    head: bytes, name: str, value: Asset, limits: FileLimits, known: Known
) -> str | None:
    """Return what the content is, which must be neither the caller's nor the server's lie."""
    found = checked_media_type(head, name, value.mime_type or known.media_type, limits)
    if value.mime_type and known.media_type:
        checked_media_type(head, name, known.media_type, limits)
    return found


def _opened(path: str, name: str) -> BinaryIO:
    """Open a regular file; a pipe or device that takes its place meanwhile is not waited for."""
    try:
        # Asked first, because opening a device may do something already.
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except ValueError as error:  # a NUL in its name
        raise _unreadable(name, error) from error
    if is_file:
        file = open(path, "rb", opener=_open_without_waiting)
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    raise ValidationError(f"{name!r} is not a file")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _measured(file: BinaryIO, limits: FileLimits, *, with_blake3: bool) -> dict[str, Any]:
    """Read the whole file; return its size and digests."""
    from hashlib import sha256

    hashes: dict[str, Any] = {"sha256": sha256()}
    if with_blake3:
        hashes["blake3"] = _new_blake3()
    size_bytes = 0
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        size_bytes += len(chunk)
        check_size(size_bytes, limits, "input file")  # it may grow, or have said it was empty
        for digest in filter(None, hashes.values()):
            digest.update(chunk)
    digests = {name: digest and digest.hexdigest() for name, digest in hashes.items()}
    return {"size_bytes": size_bytes, **digests}


def _new_blake3() -> Any:
    """Return a new BLAKE3 hash; None where the blake3 package is not installed."""
    try:
        from blake3 import blake3  # type: ignore[import-not-found,unused-ignore]  # optional here
    except ImportError:
        return None
    return blake3()


def _check_promises(value: Asset | Tensors, name: str, facts: dict[str, Any]) -> None:
    """Refuse a file that has another digest than the payload says."""
    for algorithm in ("sha256", "blake3"):
        promised, found = getattr(value, algorithm), facts.get(algorithm)
        if promised and found and promised.lower() != found:
            raise ValidationError(
                f"{name!r} has the {algorithm} {found!r}, the payload says {promised!r:.200}"
            )


def _unreadable(name: str, error: OSError | ValueError) -> ValidationError:
    reason = getattr(error, "strerror", None) or str(error)
    return ValidationError(f"file {name!r} cannot be read: {reason}")
