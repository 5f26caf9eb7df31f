"""Turns of threads that compute: a thread gives its own to another while it waits for the disk.

So there can be as many readers as a disk likes, and yet few compute at a time: more of them would
only take each other's caches.
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
    """Lets so many threads compute at once."""

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)

    def run(self, work: Callable[[], T]) -> T:
        """Do the work in this thread when its turn has come; blocks."""
        with self._free:
            _this_thread.free = self._free
            try:
                return work()
            finally:
                _this_thread.free = None


@contextlib.contextmanager
def waiting_for_disk() -> Iterator[None]:
    """Give this thread's turn, if it has one, to another for the time of the block."""
    free: threading.BoundedSemaphore | None = getattr(_this_thread, "free", None)
    if free is None:
        yield
        return
    free.release()
    try:
        yield
    finally:
        free.acquire()
