"""Counted permissions with a fair queue: a device, one lane of a function, all async calls."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.runtime.engine.handoff import Waiter

__all__ = ["Holding", "SlotQueue", "take"]


class SlotQueue:
    """At most `limit` holders; the others wait in the order they came. Usable from any thread."""

    __slots__ = ("_free", "_lock", "_waiting", "limit", "name")

    # Taking a free slot and giving it back need no lock, as long as nobody waits: adding to a list
    # and popping from it are atomic. Only those who wait are handled one at a time.

    def __init__(self, name: str, limit: int = 1) -> None:
        self.name = name
        self.limit = limit
        self._free = [None] * limit
        self._lock = threading.Lock()
        self._waiting: deque[Waiter] = deque()

    def __repr__(self) -> str:
        return f"<SlotQueue {self.name}: {self.taken}/{self.limit}, {self.waiting} waiting>"

    @property
    def taken(self) -> int:
        return self.limit - len(self._free)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def load(self) -> int:
        """How many calls are here, holding and waiting."""
        return self.taken + len(self._waiting)

    def try_take(self) -> bool:
        """Take a slot if one is free; nobody waits then."""
        if self._waiting:
            return False
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def join(self, waiter: Waiter) -> bool:
        """Take a slot and return True, or queue up: `waiter` is woken when it has one."""
        if self.try_take():
            return True
        self._waiting.append(waiter)
        self._pass_on()  # what was given back before anybody waited
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
        self._free.append(None)
        if self._waiting:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give what is free to those who wait."""
        successors: list[Waiter] = []
        with self._lock:
            while self._waiting and self._free:
                try:
                    self._free.pop()
                except IndexError:  # by somebody who came before anybody waited
                    break
                successors.append(self._waiting.popleft())
        for successor in successors:
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


class Holding:
    """A slot for the time of a block, for what is no call."""

    def __init__(self, slot: SlotQueue, make_waiter: Callable[[], Waiter]) -> None:
        self._slot = slot
        self._make_waiter = make_waiter

    async def __aenter__(self) -> None:
        from gen_worker.cancel import CancelToken

        await take(self._slot, self._make_waiter, CancelToken())

    async def __aexit__(self, *exception: object) -> None:
        self._slot.give_back()
