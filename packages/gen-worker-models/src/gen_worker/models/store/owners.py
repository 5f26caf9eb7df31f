"""Which process a file belongs to, and whether that process still lives.

A file names its owner, so that what a killed process left behind is void by itself. Within one
machine and pid namespace the kernel answers. Elsewhere, as on a shared volume, only the file's age
can: owners touch what they hold, and what nobody touched for long has no owner.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from gen_worker.models.processes import is_running, start_of, this_machine

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE_S", "SEPARATOR", "is_alive", "this_process"]

SEPARATOR = "~"
PATIENCE_S = 600.0
"""Age at which a file of another machine's process is void; ten missed heartbeats."""


def this_process() -> str:
    """Return the name of this process: host, boot, pid namespace, pid and start time."""
    return _name_of(os.getpid())


@cache
def _name_of(pid: int) -> str:
    return SEPARATOR.join((*this_machine(), str(pid), str(start_of(pid) or 0)))


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
    here = this_machine()
    if boot and (boot, namespace) == (here.boot, here.namespace):
        if not (pid.isdecimal() and start.isdecimal()):
            return False
        running = is_running(int(pid), int(start))
        if running is not None:
            return running
    return age_s() < patience_s
