"""Who writes a partial file: the process, told apart from every other on every machine.

The owner is part of the file's name, so that taking over a dead owner's partial is one rename,
which exactly one process wins.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
from typing import NamedTuple

__all__ = ["ORPHAN", "Owner", "is_running", "this_process"]

_TEXT = re.compile(r"([0-9]{1,10})-([0-9]{1,20})-([0-9a-f]{12})")


class Owner(NamedTuple):
    """A process."""

    pid: int
    """0 when the partial was left behind on purpose."""
    start: int
    """When it started, in the kernel's ticks: pids are used again."""
    scope: str
    """Where its pid means something: one boot of one machine, one namespace of pids."""

    def __str__(self) -> str:
        return f"{self.pid}-{self.start}-{self.scope}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        match = _TEXT.fullmatch(text)
        return cls(int(match[1]), int(match[2]), match[3]) if match else None


ORPHAN = Owner(0, 0, "0" * 12)


def this_process() -> Owner:
    pid = os.getpid()
    return Owner(pid, _start_of(pid) or 0, _scope())


def is_running(owner: Owner) -> bool | None:
    """Tell whether a process is alive; None when it lives where this one cannot look."""
    if owner.pid == 0:
        return False
    if owner.scope != _scope():
        return None
    return _start_of(owner.pid) == owner.start


def _start_of(pid: int) -> int | None:
    """Return when a process started; None when there is none, or only its zombie."""
    if not os.path.exists("/proc/self/stat"):
        return _start_without_proc(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _start_without_proc(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # alive, and somebody else's
        pass
    return 0


@functools.cache
def _scope() -> str:
    facts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        try:
            with open(path, encoding="ascii") as file:
                facts.append(file.read().strip())
        except OSError:
            facts.append("")
    try:
        facts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        facts.append("")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
