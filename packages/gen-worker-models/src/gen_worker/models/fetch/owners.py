"""Who writes a partial file: the process, told apart from every other on every machine.

The owner is part of the file's name, so that taking over a dead owner's partial is one rename,
which exactly one process wins.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from typing import NamedTuple

from gen_worker.models import processes
from gen_worker.models.processes import start_of, this_machine

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
    return Owner(pid, start_of(pid) or 0, _scope())


def is_running(owner: Owner) -> bool | None:
    """Tell whether a process is alive; None when it lives where this one cannot look."""
    if owner.pid == 0:
        return False
    if owner.scope != _scope():
        return None
    return processes.is_running(owner.pid, owner.start)


@functools.cache
def _scope() -> str:
    return hashlib.sha256("\n".join(this_machine()).encode()).hexdigest()[:12]
