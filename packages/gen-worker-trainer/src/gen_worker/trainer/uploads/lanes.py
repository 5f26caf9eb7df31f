"""Work that is done in the background, in order, with a limit on what waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Lane"]

T = TypeVar("T")


class Lane(Generic[T]):
    """One thread that does one thing at a time. The thread begins with the first of them."""

    def __init__(
        self,
        name: str,
        work: Callable[[T], object],
        *,
        capacity: int,
        merge: Callable[[T, T], T] | None = None,
    ) -> None:
        """Prepare.

        Args:
            name: Of the thread.
            work: Called there; has to deal with its own failures.
            capacity: Of what waits.
            merge: Makes one of the two that have waited longest, when there is no room for another.
        """
        self._name = name
        self._work = work
        self._capacity = capacity
        self._merge = merge
        self._waiting: deque[T] = deque()
        self._is_busy = False
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, item: T, *, patience_s: float = 0.0) -> bool:
        """Have something done; False when there was no room for it, however long that was awaited.

        Args:
            item: For `work`.
            patience_s: How long to wait for room.
        """
        with self._changed:
            if self._merge is not None and len(self._waiting) >= self._capacity:
                first, second = self._waiting.popleft(), self._waiting.popleft()
                self._waiting.appendleft(self._merge(first, second))
            has_room = self._changed.wait_for(
                lambda: self._is_closed or len(self._waiting) < self._capacity, patience_s
            )
            if not has_room or self._is_closed:
                return False
            self._waiting.append(item)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return True

    def drain(self, deadline: float) -> bool:
        """Wait until all is done; False when it is not by then.

        Args:
            deadline: By `time.monotonic()`.
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: self._is_closed or not (self._waiting or self._is_busy),
                max(0.0, deadline - time.monotonic()),
            )

    def close(self) -> None:
        """Leave what waits undone, and return once the last of the work has ended."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._waiting)
                if self._is_closed:
                    return
                item = self._waiting.popleft()
                self._is_busy = True
                self._changed.notify_all()
            try:
                self._work(item)
            finally:
                with self._changed:
                    self._is_busy = False
                    self._changed.notify_all()
