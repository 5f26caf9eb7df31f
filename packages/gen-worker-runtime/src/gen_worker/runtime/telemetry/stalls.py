"""Notices that the event loop does not turn, and says which line of whose function holds it up.

An `async def` that blocks stops everything its worker does besides: heartbeats, cancels, deadlines
and every other request. Only another thread can still say so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from gen_worker.runtime.telemetry.telemetry import Telemetry

__all__ = ["LoopWatch", "Stall", "watch_loop"]

_log = logging.getLogger("gen_worker.telemetry")

_PING_S = 1.0
_STDLIB = os.path.dirname(os.__file__) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_MAX_FRAMES = 1000

REMEDY = (
    "write it as `def`, which runs in a thread of its own, or await what takes its time, such as "
    "`await asyncio.to_thread(...)`"
)


class Stall(NamedTuple):
    """What held a loop up."""

    seconds: float = 0.0
    function: str = ""
    """Empty when it was no call of a function."""
    request_id: str = ""
    """Of that call."""
    location: str = ""
    """`module:line function`; empty when no code ran on the loop."""
    path: str = ""
    """File of that line."""
    line: str = ""
    """Its text."""


class LoopWatch:
    """A thread that asks a loop once a second whether it turns.

    That is all it costs: nothing is added to any call. A stall is reported once, however long.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        function_of: Callable[[str], str],
        stalled: Callable[[Stall], None],
        turned: Callable[[Stall], None],
        ping_s: float = _PING_S,
    ) -> None:
        """Begin to watch the running loop, which this thread runs.

        Args:
            limit_s: How long it may take to turn.
            function_of: Returns the function of a request id; empty when there is none. Any thread.
            stalled: Told when it takes longer; in the thread of this watch.
            turned: Told of the same stall when it is over; likewise.
            ping_s: Seconds between two looks.
        """
        self._limit_s = limit_s
        self._ping_s = ping_s
        self._function_of = function_of
        self._stalled = stalled
        self._turned = turned
        self._loop = asyncio.get_running_loop()
        self._ident = threading.get_ident()
        self._closed = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gen-worker-loop-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()
        self._answered.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._ping_s):
            try:
                self._look()
            except Exception:
                if self._loop.is_closed():
                    return
                _log.exception("a look at the event loop failed")

    def _look(self) -> None:
        since = monotonic()
        self._answered.clear()
        if self._closed.is_set():
            return
        self._loop.call_soon_threadsafe(self._answered.set)
        if self._is_answered(self._limit_s):
            return
        stall = self._examine()
        self._stalled(stall._replace(seconds=monotonic() - since))
        self._is_answered(math.inf)
        if not self._closed.is_set():
            self._turned(stall._replace(seconds=monotonic() - since))

    def _is_answered(self, within_s: float) -> bool:
        """Wait for the loop to turn; one that was closed before it did so never will."""
        ends_at = monotonic() + within_s
        while not self._answered.wait(min(self._ping_s, within_s)):
            if self._loop.is_closed():
                raise RuntimeError("the loop is closed")
            within_s = ends_at - monotonic()
            if within_s <= 0:
                return False
        return True

    def _examine(self) -> Stall:
        """Return what runs on the loop at this moment."""
        task = asyncio.current_task(self._loop)
        name = "" if task is None else task.get_name()  # a call's is its request id
        function = self._function_of(name)
        stall = Stall(function=function, request_id=name if function else "")
        frame = _author_frame(sys._current_frames().get(self._ident))
        if frame is None:
            return stall
        import linecache

        code, number = frame.f_code, frame.f_lineno or 0  # it has none between two lines
        return stall._replace(
            location=f"{frame.f_globals.get('__name__', '?')}:{number} {code.co_qualname}",
            path=code.co_filename,
            line=linecache.getline(code.co_filename, number).strip(),
        )


def _author_frame(innermost: FrameType | None) -> FrameType | None:
    """Return the frame to name: the author's innermost, else that of a library it uses."""
    installed: FrameType | None = None
    frame, depth = innermost, 0
    while frame is not None and depth < _MAX_FRAMES:
        name = frame.f_code.co_filename
        is_installed = any(part in name for part in _INSTALLED)
        if is_installed:
            installed = installed or frame
        elif not (name.startswith((_STDLIB, "<frozen ")) or _is_ours(name)):
            return frame
        frame, depth = frame.f_back, depth + 1
    return installed


def _is_ours(filename: str) -> bool:
    import gen_worker

    return any(filename.startswith(root + os.sep) for root in gen_worker.__path__)


def watch_loop(
    limit_s: float, function_of: Callable[[str], str], telemetry: Telemetry
) -> LoopWatch:
    """Watch the running loop of a worker: log what holds it up, and report it afterwards.

    Args:
        limit_s: How long it may take to turn.
        function_of: Returns the function of a request id; empty when there is none. Any thread.
        telemetry: Takes the event `worker.loop_blocked`, which goes out once the loop turns again.
    """

    def stalled(stall: Stall) -> None:
        _log.warning("%s", complaint(stall))

    def turned(stall: Stall) -> None:
        _log.warning("the event loop turns again after %.1f s", stall.seconds)
        names = {"function_name": stall.function, "location": stall.location}
        keys = {key: name for key, name in names.items() if name}
        duration_ms = round(stall.seconds * 1000)
        telemetry.tell(
            "worker.loop_blocked", {**keys, "warn_after_s": limit_s, "duration_ms": duration_ms}
        )

    return LoopWatch(limit_s, function_of=function_of, stalled=stalled, turned=turned)


def complaint(stall: Stall) -> str:
    """Return what to tell an operator of a stall."""
    waits = (
        f"the event loop has not turned for {stall.seconds:.1f} s, and heartbeats, cancels and all "
        "other requests wait for it"
    )
    if not stall.location:
        return (
            f"{waits}: no code of this endpoint runs on it, so another thread keeps the "
            "interpreter for itself, or the machine has too much to do"
        )
    who = f"{stall.function!r} (request {stall.request_id!r}) is" if stall.function else "it is"
    where = f"{stall.path}, {stall.location}: `{stall.line}`"
    return f"{waits}: {who} at {where}; {REMEDY}"
