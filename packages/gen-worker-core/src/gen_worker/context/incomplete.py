"""Files in the making, in one directory below the outputs; what killed processes left is removed.

Each is locked while its process lives: the lock goes with the process, however that ends, and
speaks for processes of other containers too, whose ids mean nothing here.
"""

from __future__ import annotations

import os
import time
from typing import BinaryIO

from gen_worker.errors import ValidationError

__all__ = ["create_incomplete", "remove_abandoned"]

_DIRECTORY = ".incomplete"
_SUFFIX = ".part"

_MIN_AGE_S = 60.0
"""A file is made before it is locked, so a new one may look abandoned."""
_UNLOCKED_AGE_S = 3600.0
"""Where files cannot be locked, one that nobody wrote to for so long is taken as abandoned."""


def create_incomplete(root: str) -> tuple[str, BinaryIO]:
    """Make and lock a new file below `root`, on the disk of the outputs.

    Raises:
        ValidationError: Its directory is a symbolic link.
        OSError: It cannot be made.
    """
    directory = os.path.join(root, _DIRECTORY)
    if os.path.islink(directory):
        raise ValidationError(f"{directory!r} is a symbolic link: remove the link")
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, f"{os.urandom(8).hex()}{_SUFFIX}")
    file = open(path, "xb")
    _lock(file)
    return path, file


def remove_abandoned(root: str) -> None:
    """Remove what processes that are gone did not finish. What cannot be removed stays."""
    try:
        directory = os.path.join(root, _DIRECTORY)
        if os.path.islink(directory):
            return
        with os.scandir(directory) as entries:
            paths = [e.path for e in entries if e.name.endswith(_SUFFIX) and not e.is_symlink()]
    except OSError:  # nothing was ever stored here, or it cannot be read
        return
    for path in paths:
        try:
            _remove_if_abandoned(path)
        except OSError:  # another process was faster, or it is another user's
            continue


def _remove_if_abandoned(path: str) -> None:
    with open(path, "r+b") as file:
        age_s = time.time() - os.fstat(file.fileno()).st_mtime
        if age_s < _MIN_AGE_S:
            return
        is_locked_by_us = _lock(file)
        if is_locked_by_us or (is_locked_by_us is None and age_s > _UNLOCKED_AGE_S):
            os.unlink(path)


def _lock(file: BinaryIO) -> bool | None:
    """Lock a file until it is closed; False when it is locked already, None when none can be."""
    try:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, and some network file systems
        return None
    return True
