"""The one way a call is told to stop.

Timeouts, interrupts, client disconnects, drain and Ctrl-C all trip the call's `CancelToken`;
everything that waits on behalf of a call waits on the token too.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal

from gen_worker.errors import CanceledError, DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

__all__ = ["CancelReason", "CancelToken", "Interrupted", "is_shielded", "shield"]

CancelReason = Literal["caller", "deadline", "disconnect", "shutdown", "interrupt"]

# Callbacks are added and fired rarely, so all tokens share one lock: a lock of its own would cost
# every call more than all of its other bookkeeping. Reentrant, because a signal handler may cancel
# in the thread that holds it.
_lock = threading.RLock()


class CancelToken:
    """A one-way switch that any thread may trip and any thread or task may watch.

    A new token costs a tenth of a microsecond: events and callbacks exist only once asked for.
    """

    __slots__ = ("_callbacks", "_event", "canceled_at", "reason")

    def __init__(self) -> None:
        self.reason: CancelReason | None = None
        self.canceled_at: float | None = None
        """`time.perf_counter()` at the moment of the cancel, for latency measurements."""
        self._callbacks: list[Callable[[], None]] | None = None
        self._event: threading.Event | None = None

    @property
    def is_canceled(self) -> bool:
        return self.reason is not None

    @property
    def event(self) -> threading.Event:
        """An event that is set once the token is canceled."""
        if self._event is None:
            with _lock:
                if self._event is None:
                    self._event = threading.Event()
                    if self.reason is not None:
                        self._event.set()
        return self._event

    def cancel(self, reason: CancelReason = "caller") -> bool:
        """Trip the token; the first reason stays.

        Returns:
            True when this call tripped it, False when it was canceled before.
        """
        with _lock:
            if self.reason is not None:
                return False
            self.canceled_at = time.perf_counter()
            self.reason = reason
            callbacks, self._callbacks = self._callbacks, None
            if self._event is not None:
                self._event.set()
        _run_all(callbacks or ())
        return True

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, in the canceling thread, or right now if already canceled.

        The callback must be short and must not raise.
        """
        # One assignment, so that a signal handler that cancels in between leaves nothing half done.
        with _lock:
            self._callbacks = [*(self._callbacks or ()), callback]
        if self.reason is not None and self._take(callback):
            callback()

    def discard(self, callback: Callable[[], None]) -> None:
        """Forget a callback; unknown ones are ignored."""
        self._take(callback)

    def _take(self, callback: Callable[[], None]) -> bool:
        """Remove a callback; return whether it was still there, so that only one caller runs it."""
        with _lock:
            present = self._callbacks or []
            self._callbacks = [other for other in present if other != callback]
            return len(self._callbacks) < len(present)

    def error(self, message: str = "") -> CanceledError:
        """Return the exception that stands for this cancel."""
        if self.reason == "deadline":
            return DeadlineExceededError(message or "deadline exceeded")
        return CanceledError(message or "canceled")

    def raise_if_canceled(self, message: str = "") -> None:
        if self.reason is not None:
            raise self.error(message)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until canceled; return whether it is."""
        return self.event.wait(timeout_s)

    async def wait_async(self) -> None:
        """Wait until canceled, on the running asyncio loop, without a thread."""
        import asyncio

        loop = asyncio.get_running_loop()
        tripped = loop.create_future()

        def settle() -> None:
            if not tripped.done():
                tripped.set_result(None)

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(settle)
            except RuntimeError:  # the loop is closed, and with it whoever waited
                return

        self.on_cancel(wake)
        try:
            await tripped
        finally:
            self.discard(wake)

    def __repr__(self) -> str:
        return f"<CancelToken {self.reason or 'open'}>"


def _run_all(callbacks: Sequence[Callable[[], None]]) -> None:
    """Run every callback, whatever another one raises; the first error is then raised."""
    errors: list[Exception] = []
    for callback in callbacks:
        try:
            callback()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


class Interrupted(BaseException):
    """Raised inside a blocking handler whose call was canceled, at any point of its own code.

    No `Exception`, so that `except Exception` does not swallow it. A handler may catch it to clean
    up and must let it pass on; one that keeps it is interrupted again 50 ms later.
    """


# How many shields each thread is inside of, by thread ident. Not a thread-local: the thread that
# wants to interrupt has to read it.
_shield_counts: dict[int, int] = {}


class shield:
    """Postpone an interrupt of the current thread until the block is left.

    Shields nest, and cost about 0.3 us. They stop nothing but `Interrupted`: the token is tripped
    all the same, and an `async` handler is canceled at its next `await`.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        ident = threading.get_ident()
        _shield_counts[ident] = _shield_counts.get(ident, 0) + 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ident = threading.get_ident()
        left = _shield_counts[ident] - 1
        if left:
            _shield_counts[ident] = left
        else:
            del _shield_counts[ident]


def is_shielded(thread_ident: int) -> bool:
    """Tell whether that thread is inside a `shield()`."""
    return thread_ident in _shield_counts
