"""How much RAM is left: the kernel's own estimate, and the limits of the control groups."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["HostMemory", "parse_cgroups", "parse_fields", "parse_limit", "read_host_memory"]

# Version 1 writes "no limit" as the largest multiple of a page that fits 63 bits.
_NO_LIMIT = 1 << 60


class HostMemory(NamedTuple):
    """Bytes of RAM that this process may count on; zero when unknown."""

    total_bytes: int = 0
    available_bytes: int = 0


class _Files(NamedTuple):
    """Names of one control group version's files."""

    limit: str
    usage: str
    cache: str
    """Field of `memory.stat` that the kernel gives back before it refuses memory."""


_V2 = _Files("memory.max", "memory.current", "inactive_file")
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def read_host_memory(root: str = "/") -> HostMemory:
    """Return the smallest of what the machine and each enclosing control group leave.

    Args:
        root: Where `proc` and `sys` are found.
    """
    fields = parse_fields(_read(os.path.join(root, "proc/meminfo")))
    if "MemTotal" not in fields:
        return HostMemory()
    total = fields["MemTotal"] * 1024
    free = fields.get("MemFree", 0) + fields.get("Cached", 0)  # kernels before 3.14
    available = fields.get("MemAvailable", free) * 1024
    for directory, files in _groups(root):
        limit = parse_limit(_read(os.path.join(directory, files.limit)))
        used = parse_limit(_read(os.path.join(directory, files.usage)))
        if limit is None or used is None:
            continue
        stat = parse_fields(_read(os.path.join(directory, "memory.stat")))
        total = min(total, limit)
        available = min(available, max(0, limit - used + stat.get(files.cache, 0)))
    return HostMemory(total, available)


def parse_fields(text: str) -> dict[str, int]:
    """Read lines of a name and a number: `/proc/meminfo` (in kB) or `memory.stat` (in bytes)."""
    fields = {}
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdigit():
            fields[words[0]] = int(words[1])
    return fields


def parse_limit(text: str) -> int | None:
    """Read a limit or a usage in bytes; None when there is none."""
    text = text.strip()
    if not text.isdigit() or int(text) >= _NO_LIMIT:
        return None
    return int(text)


def parse_cgroups(text: str) -> Mapping[str, str]:
    """Read `/proc/self/cgroup`: the path of the group by controller; version 2 has the name ''."""
    paths = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if number.isdigit() and colon:
            paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _groups(root: str) -> Iterator[tuple[str, _Files]]:
    """Yield this process's memory groups, the innermost first, and which files they have."""
    base = os.path.join(root, "sys/fs/cgroup")
    paths = parse_cgroups(_read(os.path.join(root, "proc/self/cgroup")))
    for name, top, files in (("memory", os.path.join(base, "memory"), _V1), ("", base, _V2)):
        if name not in paths:
            continue
        atoms = [atom for atom in paths[name].split("/") if atom not in ("", "..")]
        # A container may see its own group at the top although its path names it from outside.
        for depth in range(len(atoms), -1, -1):
            yield os.path.join(top, *atoms[:depth]), files


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
