"""SIGINT and SIGTERM of a server: the first asks it to stop, the second ends it."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["StopSignals"]


class StopSignals:
    """Watches both signals from the first line to the last.

    Plain handlers rather than the event loop's: a loop that a handler of the author's blocks could
    not even be ended by a second signal.
    """

    def __init__(self) -> None:
        self.before_dying: Callable[[], object] = lambda: None
        """Called before the process is ended on the spot."""
        self._number: int | None = None
        self._request_stop: Callable[[], object] | None = None

    @property
    def exit_code(self) -> int:
        """Of a server that was stopped before it served."""
        return 128 + (self._number or signal.SIGINT)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take both signals during the block; until `stops` is called they raise."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [(number, signal.signal(number, self._on_signal)) for number in numbers]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def stops(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        """Have the first signal set `event` from now on."""
        self._request_stop = lambda: loop.call_soon_threadsafe(event.set)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._number is not None:
            self.before_dying()
            os._exit(128 + number)
        self._number = number
        if self._request_stop is None:
            raise KeyboardInterrupt
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the server with it
            self._request_stop()
