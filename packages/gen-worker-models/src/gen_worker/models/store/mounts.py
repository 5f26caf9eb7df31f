"""Which disk a path is on, and whether that disk is across a network."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

__all__ = ["Volume", "read_mountinfo", "volume_of"]

_NETWORK = ("nfs", "nfs4")


class Volume(NamedTuple):
    """The mount a path is on."""

    fstype: str
    """Empty where the system does not say."""
    source: str
    """May name a server; never reported, see `key`."""
    mount_point: str

    @property
    def is_network(self) -> bool:
        return self.fstype in _NETWORK

    @property
    def backend(self) -> str:
        """`nfs` or `local`."""
        return "nfs" if self.is_network else "local"

    @property
    def key(self) -> str:
        """An identity of the volume that does not tell its source."""
        from hashlib import sha256

        return sha256("|".join(self).encode(errors="surrogateescape")).hexdigest()


def read_mountinfo() -> str:
    """Return what the kernel says of this process's mounts; empty where it says nothing."""
    try:
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def volume_of(path: str | os.PathLike[str], mountinfo: str) -> Volume:
    """Return the volume of a path, which need not exist: the longest mount point above it.

    Args:
        path: Links in it are followed.
        mountinfo: Text in the form of proc(5); of two mounts on one point the later one hides the
            earlier.
    """
    real = os.path.realpath(path)
    best = Volume("", "", "")
    for mount in filter(None, map(_parse, mountinfo.splitlines())):
        if len(mount.mount_point) >= len(best.mount_point) and _is_below(real, mount.mount_point):
            best = mount
    return best


def _is_below(path: str, mount_point: str) -> bool:
    return path == mount_point or path.startswith(mount_point.rstrip("/") + "/")


def _parse(line: str) -> Volume | None:
    """Read `id parent dev root MOUNT options [optional …] - FSTYPE SOURCE options`."""
    fields = line.split(" ")
    try:
        rest = fields.index("-", 6)
        return Volume(
            _unescaped(fields[rest + 1]), _unescaped(fields[rest + 2]), _unescaped(fields[4])
        )
    except (ValueError, IndexError):
        return None


def _unescaped(text: str) -> str:
    r"""Decode `\040` and its like: the bytes of a path, in octal."""
    raw = text.encode(errors="surrogateescape")
    decoded = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), raw)
    return decoded.decode(errors="surrogateescape")
