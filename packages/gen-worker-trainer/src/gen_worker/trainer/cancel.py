"""Whether a run is to stop, and why: its time is over, or a file, a setting or a signal says so."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["RuntimeCancelPolicy", "signals_going_to"]

_FILE_WORDS = ("", "1", "true", "t", "yes", "y", "cancel", "canceled")
_MOST_BYTES = 64


@contextmanager
def signals_going_to(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT call a handler; outside of the main thread nothing changes."""
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, handler)
    except ValueError:  # whoever runs it in another thread has its own way
        before.clear()
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class RuntimeCancelPolicy:
    """Looked at between steps. A run that is to stop stays so."""

    def __init__(
        self,
        cancel_file_path: str | os.PathLike[str] | None = None,
        max_runtime_seconds: float = 0,
        *,
        is_asked: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; the time begins with `start`.

        Args:
            cancel_file_path: The run stops once this file exists and says yes, or nothing.
            max_runtime_seconds: After which it stops; 0 is no limit.
            is_asked: Looked at with the file.
            clock: Seconds that only ever grow.
        """
        self.reason: str | None = None
        """`timeout` or `canceled`; None while it goes on."""
        self.signal_number: int | None = None
        """Of the signal that stops it."""
        self._file = None if cancel_file_path is None else os.fspath(cancel_file_path)
        self._limit_s = max_runtime_seconds
        self._is_asked = is_asked
        self._clock = clock
        self._started_at: float | None = None

    def start(self) -> None:
        """Begin to count the time."""
        self._started_at = self._clock()

    def cancel(self) -> None:
        """Have the run stop."""
        self.reason = self.reason or "canceled"

    def is_canceled(self) -> bool:
        """Tell whether the run is to stop, and keep why in `reason`."""
        if self.reason is None:
            found = self._found()
            if found is not None:  # a signal may have given a reason meanwhile: None is none
                self.reason = found
        return self.reason is not None

    def _found(self) -> str | None:
        if self._limit_s > 0 and self._started_at is not None:
            if self._clock() - self._started_at >= self._limit_s:
                return "timeout"
        return "canceled" if self._is_asked() or self._file_says_so() else None

    def _file_says_so(self) -> bool:
        if not self._file:
            return False
        try:
            with open(self._file, "rb") as file:
                text = file.read(_MOST_BYTES).decode("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # it is there, and cannot be read
            return True
        return text.strip().lower() in _FILE_WORDS

    @contextmanager
    def hearing_signals(self) -> Iterator[None]:
        """Have SIGTERM and SIGINT stop the run in order; a second SIGINT stops it at once."""

        def heard(number: int, frame: object) -> None:
            if number == signal.SIGINT and self.signal_number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal_number = number
            self.cancel()

        with signals_going_to(heard):
            yield

    @property
    def exit_code(self) -> int:
        """What the process of a run that was stopped ends with."""
        number = self.signal_number
        return 1 if number is None else 128 + number
