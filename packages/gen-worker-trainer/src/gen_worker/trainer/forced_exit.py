"""Ends the process of a run that was asked to stop and does not."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.loop.heartbeat import place_of, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.trainer.cancel import RuntimeCancelPolicy

__all__ = ["ForcedExit"]

_LOOK_S = 0.25
_TELL_S = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger("gen_worker.trainer")


class ForcedExit:
    """A thread that looks whether the run is to stop, and waits so long for it.

    It hears of signals by itself: the handlers of a process do not run while its main thread is in
    a call that does not come back. Only a call that also holds the interpreter's lock is out of
    its reach.
    """

    def __init__(
        self,
        policy: RuntimeCancelPolicy,
        grace_s: float,
        tell: Callable[[str], object],
        *,
        is_needed: Callable[[], bool] = lambda: True,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """Prepare.

        Args:
            policy: Says whether the run is to stop.
            grace_s: What it has for that; 0 waits for it without a limit.
            tell: Reports the end, given its reason; has ten seconds for it.
            is_needed: Whether the run has steps to stop; one that only finishes is left to it.
            end: Ends the process with an exit code.
        """
        self._policy = policy
        self._grace_s = grace_s
        self._tell = tell
        self._is_needed = is_needed
        self._end = end
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self._pipe: tuple[int, int] | None = None
        self._fd_before = -1
        self._signal: int | None = None

    def __enter__(self) -> ForcedExit:
        """Begin; the run is in this thread."""
        if self._grace_s > 0:
            self._listen()
            self._thread = threading.Thread(
                target=self._watch,
                args=(threading.get_ident(),),
                name="gen-worker-forced-exit",
                daemon=True,
            )
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The run has ended."""
        self._is_over.set()
        if self._thread is None:
            return
        if self._pipe is not None:
            os.write(self._pipe[1], b"\0")
        self._thread.join()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._fd_before)
            for fd in self._pipe:
                os.close(fd)

    def _listen(self) -> None:
        """Have the numbers of signals written to a pipe, which happens at once."""
        if os.name != "posix":  # pipes cannot be waited for there
            return
        pipe = os.pipe()
        os.set_blocking(pipe[1], False)
        try:
            self._fd_before = signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
        except ValueError:  # not in the main thread: others hear the signals
            for fd in pipe:
                os.close(fd)
            return
        self._pipe = pipe

    def _watch(self, run_by: int) -> None:
        asked_at: float | None = None
        while not self._is_over.is_set():
            if asked_at is None and (self._signal or self._policy.is_canceled()):
                asked_at = time.monotonic()
            if asked_at is not None and time.monotonic() - asked_at >= self._grace_s:
                if self._is_needed():
                    self._force(run_by)
                return
            self._wait()

    def _wait(self) -> None:
        """Wait a little, or until a signal or the end of the run is there."""
        if self._pipe is None:
            self._is_over.wait(_LOOK_S)
            return
        if select.select([self._pipe[0]], [], [], _LOOK_S)[0]:
            for number in os.read(self._pipe[0], 64):
                if number in _SIGNALS:
                    self._signal = number

    def _force(self, run_by: int) -> None:
        self._policy.cancel()
        reason = self._policy.reason or "canceled"
        _log.error(
            "the run was asked to stop (%s) and has not within %g s; its process ends, at %s\n%s",
            reason,
            self._grace_s,
            place_of(run_by),
            stack_of(run_by),
        )
        telling = threading.Thread(target=self._tell, args=(reason,), daemon=True)
        telling.start()  # what it needs may be held by the thread that hangs
        telling.join(_TELL_S)
        flushed: list[Any] = [sys.stdout, sys.stderr, *logging.getLogger().handlers]
        for one in flushed:
            with suppress(Exception):
                one.flush()
        code = self._policy.exit_code
        if self._policy.signal_number is None and self._signal is not None:
            code = 128 + self._signal
        self._end(code)
