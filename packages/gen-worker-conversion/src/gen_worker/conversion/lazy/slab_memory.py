"""Memory that slabs are read into and cast to: used again, as fresh pages have to be cleared first.

What an allocator gets back from other threads stays with it, and adds up to twice of what is used;
this memory goes from slab to slab, and back to the system when the work has ended.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any

from gen_worker.models.reader.memory import HostMemory

__all__ = ["LEAST_BYTES", "release_idle", "slab_memory"]

LEAST_BYTES = 1 << 20
"""What is smaller is left to the allocator, and begins anywhere."""
_MAX_IDLE_BYTES = 32 << 20


class _Pool:
    def __init__(self) -> None:
        self._lock = threading.RLock()  # a collection while it is held may give memory back
        self._idle: list[HostMemory] = []

    def take(self, size_bytes: int) -> HostMemory:
        step = 1 << (size_bytes.bit_length() - 4)  # at most an eighth more than asked
        size = -(-size_bytes // step) * step
        with self._lock:
            for index, memory in enumerate(self._idle):
                if len(memory) == size:
                    return self._idle.pop(index)
        return HostMemory(size)

    def give(self, memory: HostMemory) -> None:
        with self._lock:
            self._idle.append(memory)
            while sum(map(len, self._idle)) > _MAX_IDLE_BYTES:
                self._idle.pop(0)

    def clear(self) -> None:
        with self._lock:
            self._idle = []


_pool = _Pool()


def slab_memory(size_bytes: int) -> Any:
    """Return uninitialised bytes as a tensor; from `LEAST_BYTES` on it begins at a page.

    Its memory goes to the next slab when the last tensor that views it is gone.

    Raises:
        ResourceError: The system has no memory.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    if size_bytes < LEAST_BYTES:
        return torch.empty(size_bytes, dtype=torch.uint8)
    memory = _pool.take(size_bytes)
    lent = (ctypes.c_char * size_bytes).from_buffer(memory)
    weakref.finalize(lent, _pool.give, memory).atexit = False
    return torch.frombuffer(lent, dtype=torch.uint8)


def release_idle() -> None:
    """Give what no slab uses back to the system."""
    _pool.clear()
