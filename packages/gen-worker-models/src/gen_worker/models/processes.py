"""Whether a process that left its name on a file still lives.

A pid alone says little: pids are used again, and mean something within one boot of one machine and
one pid namespace only.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import NamedTuple

__all__ = ["Machine", "is_running", "start_of", "this_machine"]


class Machine(NamedTuple):
    """Where pids mean something."""

    host: str
    """For people; machines may share it."""
    boot: str
    """Hex digits; empty where the system does not say."""
    namespace: str
    """Of pids, in digits."""


@cache
def this_machine() -> Machine:
    from platform import node

    host = re.sub(r"[^A-Za-z0-9.-]", "-", node())[:40]
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = re.sub(r"[^0-9a-f]", "", file.read())
        namespace = re.sub(r"[^0-9]", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        boot, namespace = "", ""
    return Machine(host or "-", boot, namespace)


def start_of(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None when there is none to be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # proc(5): fields 3 (state) and 22 (start time); a zombie or dead process holds nothing.
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def is_running(pid: int, start: int) -> bool | None:
    """Tell whether a process of this machine lives; None when the system does not say.

    Args:
        pid: Of the process.
        start: What `start_of` said of it.
    """
    found = start_of(pid)
    if found is not None or os.path.exists(f"/proc/{pid}"):
        return found == start
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return False
    return None  # there is one, but no `/proc`, or one that keeps other users' processes to itself
