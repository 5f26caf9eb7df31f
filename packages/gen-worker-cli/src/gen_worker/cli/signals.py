"""What Ctrl-C and SIGTERM do to the call that runs in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from gen_worker.cancel import CancelToken

__all__ = ["INTERRUPTED", "SECOND_PRESS_S", "TERMINATED", "Signals", "interruptible"]

INTERRUPTED = 130
TERMINATED = 143
SECOND_PRESS_S = 2.0
"""A second Ctrl-C within this time does not wait for what the first one asked for."""


class Signals:
    """Turns signals into a cancel: of the running call, and of nothing else.

    The first Ctrl-C cancels; a second one within two seconds ends the process on the spot, without
    `shutdown()`. SIGTERM cancels too, and its exit code is 143 whatever the call still answers.
    """

    def __init__(self, interrupt: Callable[[FrameType | None], object]) -> None:
        """Bind to an engine.

        Args:
            interrupt: Stops a blocking handler in the main thread; called in the signal's own
                frame, after the token was canceled.
        """
        self._interrupt = interrupt
        self._token: CancelToken | None = None
        self._presses = _Presses()
        self.is_terminated = False

    @contextlib.contextmanager
    def watching(self, token: CancelToken) -> Iterator[None]:
        """Point both signals at `token` during the block."""
        self._token = token
        before = [
            (number, signal.signal(number, handler))
            for number, handler in (
                (signal.SIGINT, self._on_interrupt),
                (signal.SIGTERM, self._on_terminate),
            )
        ]
        try:
            with _impatience():
                yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)
            self._token = None

    def _on_interrupt(self, _number: int, frame: FrameType | None) -> None:
        self._presses.count()
        self._cancel(frame)

    def _on_terminate(self, _number: int, frame: FrameType | None) -> None:
        self.is_terminated = True
        self._cancel(frame)

    def _cancel(self, frame: FrameType | None) -> None:
        if self._token is not None:
            self._token.cancel("shutdown" if self.is_terminated else "interrupt")
            self._interrupt(frame)


def interruptible(work: Callable[[], int], cancel: CancelToken) -> int:
    """Run a command's work in this thread; a signal cancels it and decides the exit code.

    Args:
        work: Returns the exit code.
        cancel: Ends what runs in other threads.
    """
    signals = Signals(_interrupt)
    try:
        with signals.watching(cancel):
            return work()
    except KeyboardInterrupt:
        return TERMINATED if signals.is_terminated else INTERRUPTED


def _interrupt(_frame: object) -> NoReturn:
    """Leave the main thread at once; the others stop by the token."""
    raise KeyboardInterrupt


class _Presses:
    """Ends the process at the second of two Ctrl-C that follow each other quickly."""

    def __init__(self) -> None:
        self._last_at: float | None = None

    def count(self) -> None:
        now = time.monotonic()
        if self._last_at is not None and now - self._last_at < SECOND_PRESS_S:
            os._exit(INTERRUPTED)
        self._last_at = now


@contextlib.contextmanager
def _impatience() -> Iterator[None]:
    """Count Ctrl-C in a thread as well, during the block.

    Python calls signal handlers between two bytecodes of the main thread: never, while that sits in
    a library. What the interpreter writes to the wakeup descriptor comes at once.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(
        target=_count_presses, args=(reader,), name="gen-worker-signals", daemon=True
    ).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def _count_presses(reader: int) -> None:
    presses = _Presses()
    while received := os.read(reader, 64):
        for _ in range(received.count(signal.SIGINT)):
            presses.count()
    os.close(reader)
