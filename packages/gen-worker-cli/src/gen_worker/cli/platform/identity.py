"""Which process this is: a number alone may belong to another one by now."""

from __future__ import annotations

import os
import subprocess

__all__ = ["is_running", "memory_bytes", "started_at"]


def started_at(pid: int) -> str:
    """Return when a process began, as the system words it; empty when there is none.

    Two processes that had the same number one after the other differ in it.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return "" if os.path.isdir("/proc/self") else _asked(pid)
    # A zombie has ended; whoever started it has not looked yet.
    return "" if words[0] in (b"Z", b"X") else words[19].decode()


def _asked(pid: int) -> str:
    """Ask `ps`, where there is no /proc."""
    words = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    state, _, began = done.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else began.strip()


def is_running(pid: int, began: str) -> bool:
    """Whether the process that began then is still there."""
    return bool(began) and started_at(pid) == began


def memory_bytes(pid: int) -> int | None:
    """Return the resident memory of a process; None where it is not known."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None
