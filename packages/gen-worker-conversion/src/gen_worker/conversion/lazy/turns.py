"""Turns of threads that compute: a thread gives its own up while it waits for the disk.

So there can be as many readers as a disk likes, and yet few compute at a time: more of them would
only take each other's caches. A thread that comes back from the disk and finds no turn goes on
without: it may hold a lock that those who have the turns wait for.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Turns", "waiting_for_disk"]

T = TypeVar("T")
_this_thread = threading.local()


class Turns:
    """Lets about so many threads compute at once."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    def run(self, work: Callable[[], T]) -> T:
        """Do the work in this thread when its turn has come; blocks."""
        self._free.acquire()
        _this_thread.held = self._free
        try:
            return work()
        finally:
            held, _this_thread.held = _this_thread.held, None
            if held is not None:
                held.release()


@contextlib.contextmanager
def waiting_for_disk() -> Iterator[None]:
    """Give this thread's turn, if it has one, to another for the time of the block."""
    held: threading.BoundedSemaphore | None = getattr(_this_thread, "held", None)
    if held is None:
        yield
        return
    _this_thread.held = None
    held.release()
    try:
        yield
    finally:
        if held.acquire(blocking=False):
            _this_thread.held = held
