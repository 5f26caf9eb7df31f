"""Directories that a worker writes to."""

from __future__ import annotations

import os

__all__ = ["check_writable", "inductor_cache_dir"]

INDUCTOR_CACHE_DIR = "/var/cache/gen-worker/inductor"


def check_writable(directory: str) -> None:
    """Make a directory if need be, and write, flush and remove a file in it.

    Raises:
        OSError: That does not work.
    """
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, f".probe-{os.getpid()}-{os.urandom(4).hex()}")
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, b"probe")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        os.unlink(path)


def inductor_cache_dir(wanted: str = INDUCTOR_CACHE_DIR) -> str:
    """Return a directory for what torch compiles: this one, or one of ours if it is not ours."""
    try:
        os.makedirs(wanted, exist_ok=True)
    except OSError:
        pass
    if os.access(wanted, os.W_OK):
        return wanted
    from tempfile import gettempdir

    return os.path.join(gettempdir(), "gen-worker-inductor")
