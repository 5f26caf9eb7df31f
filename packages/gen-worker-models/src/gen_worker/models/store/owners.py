"""Which process a file belongs to, and whether that process still lives.

A file names its owner, so that what a killed process left behind is void by itself. Within one
machine and pid namespace the kernel answers. Elsewhere, as on a shared volume, only the file's age
can: owners touch what they hold, and what nobody touched for long has no owner.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE_S", "SEPARATOR", "is_alive", "this_process"]

SEPARATOR = "~"
PATIENCE_S = 600.0
"""Age at which a file of another machine's process is void; ten missed heartbeats."""


class _Machine(NamedTuple):
    host: str
    boot: str
    """Empty where the system does not say; then processes are told apart by age alone."""
    namespace: str


def this_process() -> str:
    """Return the name of this process: host, boot, pid namespace, pid and start time."""
    return _name_of(os.getpid())


@cache
def _name_of(pid: int) -> str:
    return SEPARATOR.join((*_machine(), str(pid), _start_of(pid) or "0"))


@cache
def _machine() -> _Machine:
    from platform import node

    host = re.sub(r"[^A-Za-z0-9.-]", "-", node())[:40]
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = re.sub(r"[^0-9a-f]", "", file.read())
        namespace = re.sub(r"[^0-9]", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        boot, namespace = "", ""
    return _Machine(host or "-", boot, namespace)


def is_alive(owner: str, age_s: Callable[[], float], patience_s: float = PATIENCE_S) -> bool:
    """Return whether the process named `owner` may still use what carries its name.

    Args:
        owner: What `this_process` returned there. Any other text is a dead process.
        age_s: Seconds since the file was touched; asked only when the kernel cannot tell.
        patience_s: Age at which such a file is void.
    """
    fields = owner.split(SEPARATOR)
    if len(fields) != 5:
        return False
    _, boot, namespace, pid, start = fields
    here = _machine()
    if boot and (boot, namespace) == (here.boot, here.namespace):
        if not pid.isdecimal():
            return False
        if not _is_hidden(int(pid)):
            return _start_of(int(pid)) == start
    return age_s() < patience_s


def _is_hidden(pid: int) -> bool:
    """Return whether there is such a process, of another user, that `/proc` keeps to itself."""
    if os.path.exists(f"/proc/{pid}"):
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _start_of(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # proc(5): fields 3 (state) and 22 (start time); a zombie or dead process holds nothing.
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
