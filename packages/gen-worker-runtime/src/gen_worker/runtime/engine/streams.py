"""What one call has produced and its transport has not taken yet."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.events import Delta, Event, Telemetry
    from gen_worker.runtime.engine.handoff import Waiter
    from gen_worker.runtime.engine.invocation import EngineLimits, Sink

__all__ = ["BufferedStream", "DirectStream", "Stream"]


_FIRST_ROOM = 16
"""Items; twice as many after each time that the loop took some."""


class Stream(Protocol):
    """Where a handler's items and telemetry go, in order."""

    def put(self, delta: Delta, size_bytes: int) -> bool:
        """Take an item; True asks the handler to wait for room. Only the handler's thread."""
        ...

    def tell(self, event: Telemetry) -> bool:
        """Take telemetry, from any thread; False when it was shed."""
        ...


class BufferedStream:
    """A bounded queue between one handler and the event loop.

    Full means as many items or bytes as the limits say; the handler then waits until half is
    taken. Letting it go on for every single item would cost a thread switch per item. At first it
    is full sooner: a handler that never waits keeps the interpreter to itself, and nobody would
    hear of its first item before it has filled the buffer.

    The counts have one writer each, the handler's thread or the loop, so they need no lock.
    """

    __slots__ = (
        "_announce",
        "_bytes_put",
        "_bytes_taken",
        "_events_put",
        "_events_taken",
        "_is_announced",
        "_items",
        "_max_bytes",
        "_max_events",
        "_max_items",
        "_put",
        "_room",
        "_taken",
        "_waiter",
    )

    def __init__(self, limits: EngineLimits, announce: Callable[[], None]) -> None:
        """Make an empty stream.

        Args:
            limits: How much may wait here.
            announce: Called from the handler's side, once per burst: something is to be taken.
        """
        self._max_items = limits.max_buffered_deltas
        self._room = min(_FIRST_ROOM, self._max_items)
        self._max_bytes = limits.max_buffered_bytes
        self._max_events = limits.max_buffered_events
        self._announce = announce
        self._items: deque[tuple[Event, int]] = deque()
        self._put = self._taken = 0
        self._bytes_put = self._bytes_taken = 0
        self._events_put = self._events_taken = 0
        self._is_announced = False
        self._waiter: Waiter | None = None

    @property
    def is_full(self) -> bool:
        return (
            self._put - self._taken >= self._room
            or self._bytes_put - self._bytes_taken >= self._max_bytes
        )

    @property
    def is_roomy(self) -> bool:
        """Whether a handler that waits may go on."""
        return (
            self._put - self._taken <= self._room // 2
            and self._bytes_put - self._bytes_taken <= self._max_bytes // 2
        )

    def put(self, delta: Delta, size_bytes: int) -> bool:
        self._put += 1
        self._bytes_put += size_bytes
        self._items.append((delta, size_bytes))
        if not self._is_announced:
            self._notify()
        return self.is_full

    def tell(self, event: Telemetry) -> bool:
        if self._events_put - self._events_taken >= self._max_events:
            return False
        self._events_put += 1  # helper threads may race here; the bound is not exact
        self._items.append((event, -1))
        if not self._is_announced:
            self._notify()
        return True

    def take(self) -> list[Event]:
        """Return everything that waits. Only the loop."""
        self._is_announced = False
        items = self._items
        batch: list[Event] = []
        put = size = told = 0
        for _ in range(len(items)):
            event, size_bytes = items.popleft()
            batch.append(event)
            if size_bytes < 0:
                told += 1
            else:
                put += 1
                size += size_bytes
        self._taken += put
        self._bytes_taken += size
        self._events_taken += told
        if self._room < self._max_items:
            self._room = min(self._room * 2, self._max_items)
        waiter = self._waiter
        if waiter is not None and self.is_roomy:
            waiter.wake()
        return batch

    async def wait_for_room(self, make_waiter: Callable[[], Waiter], token: CancelToken) -> None:
        """Wait until half of the buffer is free.

        Raises:
            CanceledError: The call was canceled meanwhile; on the loop `asyncio.CancelledError`.
        """
        while not self.is_roomy:
            # Known before the second look: what is taken after it wakes the waiter.
            waiter = self._waiter = make_waiter()
            try:
                if not self.is_roomy:
                    await waiter.wait(token)
            finally:
                self._waiter = None

    def _notify(self) -> None:
        self._is_announced = True
        self._announce()


class DirectStream:
    """Hands everything over at once; the transport's own pace holds the handler back."""

    __slots__ = ("_held_back", "_ident", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._ident = threading.get_ident()
        self._held_back: deque[Event] = deque()

    def put(self, delta: Delta, size_bytes: int) -> bool:
        self._sink.deliver((*self.take(), delta))
        return False

    def tell(self, event: Telemetry) -> bool:
        if threading.get_ident() == self._ident:
            self._sink.deliver((*self.take(), event))
        else:  # a thread of the author's: the sink is only called in the caller's
            self._held_back.append(event)
        return True

    def take(self) -> list[Event]:
        """Return what other threads reported meanwhile."""
        held_back = self._held_back
        return [held_back.popleft() for _ in range(len(held_back))]
