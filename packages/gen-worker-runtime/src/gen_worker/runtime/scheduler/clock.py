"""Unix time for what is kept: it goes on evenly, whatever is done to the machine's clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["steady_clock"]


def steady_clock() -> Callable[[], float]:
    """Return a clock that tells the Unix time as it was thought to be now, and what passed since.

    It counts the time a machine sleeps, where the system tells. A machine whose clock was wrong
    shows the wrong time until the process is started again; but nothing is overdue because of it.
    """
    passed = _awake_and_asleep if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
    offset = time.time() - passed()
    return lambda: offset + passed()


def _awake_and_asleep() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
