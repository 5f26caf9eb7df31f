"""Directories of running requests: each process has one of its own, each request one in it.

A process locks its directory for as long as it lives, so what a killed one left is known to be
nobody's, also where process ids mean nothing, as between containers that share the disk.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import threading
import time
from typing import TYPE_CHECKING, BinaryIO

from gen_worker.context.local_stream import write_error
from gen_worker.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Workplace", "private_directory"]

_PREFIX = "worker-"
_LOCK = ".lock"
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_MIN_AGE_S = 60.0
"""A directory is made before it is locked, so a new one may look abandoned."""


def private_directory(path: str) -> None:
    """Make a directory that nobody else may look into.

    Raises:
        ResourceError: It cannot be made, or somebody else was faster.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        facts = os.lstat(path)
    except OSError as error:
        raise ResourceError(f"the directory {path!r} cannot be used: {error.strerror}") from error
    is_mine = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
    if not (is_mine and stat.S_ISDIR(facts.st_mode)):
        raise ResourceError(
            f"the directory {path!r} is somebody else's: remove it, or set WORKER_JOB_DIR and "
            "WORKER_CACHE_DIR elsewhere"
        )


class Workplace:
    """Makes and removes the directories of one process's requests. Thread-safe, blocking."""

    def __init__(self, root: str) -> None:
        """Name the place; it is made when the first request needs it."""
        self._root = os.path.abspath(root)
        self._lock = threading.Lock()
        self._own = ""
        self._held: BinaryIO | None = None

    def make(self, request_id: str) -> str:
        """Return a new directory for one request.

        Raises:
            ResourceError: The disk is full, or the place is somebody else's.
        """
        name = f"{_UNSAFE.sub('_', request_id)[:40]}-{os.urandom(8).hex()}"
        path = os.path.join(self._ready(), name)
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            raise write_error("a request's directory", error) from error
        return path

    def remove(self, path: str) -> None:
        """Remove a request's directory; what resists goes with the process's own."""
        shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Remove the directories of all requests."""
        with self._lock:
            own, self._own = self._own, ""
            held, self._held = self._held, None
        if own:
            shutil.rmtree(own, ignore_errors=True)
        if held is not None:
            held.close()

    def _ready(self) -> str:
        with self._lock:
            if not self._own:
                private_directory(self._root)
                for path in self._abandoned():
                    shutil.rmtree(path, ignore_errors=True)
                own = os.path.join(self._root, f"{_PREFIX}{os.urandom(8).hex()}")
                private_directory(own)
                self._held = open(os.path.join(own, _LOCK), "xb")
                _lock(self._held)
                self._own = own
            return self._own

    def _abandoned(self) -> Iterator[str]:
        """Yield the directories of processes that are gone."""
        with os.scandir(self._root) as entries:
            paths = [
                entry.path
                for entry in entries
                if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False)
            ]
        for path in paths:
            try:
                if time.time() - os.lstat(path).st_mtime >= _MIN_AGE_S and _is_free(path):
                    yield path
            except OSError:  # another process was faster
                continue


def _is_free(path: str) -> bool:
    try:
        with open(os.path.join(path, _LOCK), "r+b") as file:
            return _lock(file)
    except FileNotFoundError:  # killed before it could lock
        return True


def _lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed; False when it is locked, or when nothing can be."""
    try:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
