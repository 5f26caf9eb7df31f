"""Counted permissions with a fair queue: a device, one lane of a function, all async calls."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.runtime.engine.handoff import Waiter

__all__ = ["SlotQueue", "take"]


class SlotQueue:
    """At most `limit` holders; the others wait in the order they came. Usable from any thread."""

    __slots__ = ("_lock", "_waiting", "limit", "name", "taken")

    def __init__(self, name: str, limit: int = 1) -> None:
        self.name = name
        self.limit = limit
        self.taken = 0
        self._lock = threading.Lock()
        self._waiting: deque[Waiter] = deque()

    def __repr__(self) -> str:
        return f"<SlotQueue {self.name}: {self.taken}/{self.limit}, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def load(self) -> int:
        """How many calls are here, holding and waiting."""
        return self.taken + len(self._waiting)

    def try_take(self) -> bool:
        """Take a slot if one is free; nobody waits then."""
        with self._lock:
            if self.taken < self.limit:
                self.taken += 1
                return True
            return False

    def join(self, waiter: Waiter) -> bool:
        """Take a slot and return True, or queue up: `waiter` is woken when it has one."""
        with self._lock:
            if self.taken < self.limit:
                self.taken += 1
                return True
            self._waiting.append(waiter)
            return False

    def leave(self, waiter: Waiter) -> bool:
        """Stop waiting; False when the slot was given already and has to be given back."""
        with self._lock:
            try:
                self._waiting.remove(waiter)
            except ValueError:
                return False
            return True

    def give_back(self) -> None:
        with self._lock:
            if not self._waiting:
                self.taken -= 1
                return
            successor = self._waiting.popleft()
        successor.wake()


async def take(slot: SlotQueue, make_waiter: Callable[[], Waiter], token: CancelToken) -> None:
    """Wait for a slot; a canceled wait leaves none behind."""
    if slot.try_take():
        return
    waiter = make_waiter()
    if slot.join(waiter):
        return
    try:
        await waiter.wait(token)
    except BaseException:
        if not slot.leave(waiter):
            slot.give_back()
        raise
