"""Stop a blocking handler: an exception appears in its thread, at a harmless place.

Each thread that runs authors' code has a `Region`. The exception is only ever thrown while the
thread is inside it, and leaving it takes back one that has not appeared yet, so none escapes into
the engine's own code. One watcher thread per engine waits for the harmless place, throws again when
the handler swallowed the exception, and keeps the GIL moving meanwhile.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import lru_cache
from itertools import compress
from operator import attrgetter, eq, is_, itemgetter
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gen_worker.cancel import Interrupted, is_shielded
from gen_worker.runtime.engine.frames import BOUNDARIES, is_interruptible
from gen_worker.runtime.engine.lookahead import APPEARS_LATER
from gen_worker.runtime.engine.switching import SWITCH_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["Interrupter", "Occupant", "Pending", "Region"]

# How often a bad place is looked at again, and how long a swallowed exception is left alone.
_RETRY_S = 0.0002
_AGAIN_S = 0.05
# Later than this the handler is as good as stuck, and looked at rarely.
_OLD_S = 2.0
_OLD_RETRY_S = 0.02
_TICK_S = 0.02
_IDLE_TICKS = 50
_BLOCKED_LOOKS = 30
# A blocked thread computes less than this, whatever its wake-ups.
_STILL_CPU_S = 0.002
_LONG_SWITCH_S = 0.001
# The handler, and then the loop that answers, get the GIL by lot: beside 3 busy threads each draws
# up to 20 times. Measured there on 2 cores, 120 cancels: p99 11 ms; 29 with 0.5 ms, 75 with 0.02.
_PENDING_SWITCH_S = 0.0001
# How long the answer is hurried, after the handler was seen to have stopped.
_ANSWER_S = 0.05
# Threads that take turns at a lock give the GIL away there and nowhere else, so that is where every
# look finds them. An interval this short takes it from them in between.
_PRESSED_SWITCH_S = 0.00002
_PRESSED_AFTER_S = 0.03


class Occupant(Protocol):
    """A call or a batch that runs in a thread."""

    region: Region | None
    """Set before its token is looked at for the last time, cleared once the handler is left."""


@lru_cache(maxsize=1)
def _thrower() -> Callable[[int, type[BaseException]], int]:
    # Loaded on the first cancel: ctypes costs 8 ms.
    import ctypes

    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    throw.argtypes = (ctypes.c_ulong, ctypes.py_object)
    return throw


def _throw_at(ident: int, frame: FrameType, at: int) -> bool:
    """Throw at a thread if it still stands where it was judged: in this frame, at this instruction.

    From the look to the throw this is one call of C code: between two bytecodes the GIL may go to
    the thread. The instruction alone would not do, it is the same while what it calls is running.
    """
    innermost = map(itemgetter(ident), iter(sys._current_frames, None))
    is_there = map(is_, innermost, (frame,))
    is_unmoved = map(eq, map(attrgetter("f_lasti"), (frame,)), (at,))
    targets = compress(compress((ident,), is_there), is_unmoved)
    return bool(next(map(_thrower(), targets, (Interrupted,)), 0))


class _Place(NamedTuple):
    """Where a thread was seen, how often in a row, and what it had computed by then."""

    frame_id: int = 0
    at: int = -1
    looks: int = 0
    cpu_s: float = 0.0


class Region:
    """Where one thread may be interrupted: inside the author's function and nowhere else."""

    __slots__ = ("_is_disputed", "_lock", "_place", "ident", "last_seen", "occupant")

    def __init__(self) -> None:
        self.ident = threading.get_ident()
        self.occupant: Occupant | None = None
        """What is inside at this moment."""
        self.last_seen: Occupant | None = None
        self._lock = threading.Lock()
        self._place = _Place()
        self._is_disputed = False
        """Whether somebody throws or has thrown. The thread clears `occupant` before it reads this,
        a thrower sets this before it reads `occupant`: one of them sees the other, so that leaving
        needs the lock only then."""

    def call(self, occupant: Occupant, function: Callable[[], Any]) -> Any:
        """Call the author's function; `Interrupted` may come out of it."""
        try:
            try:
                self.occupant = occupant
                return function()
            finally:
                self.occupant = None
                if self._is_disputed:
                    self._leave()
        except Interrupted:
            # It may have appeared on the way out, before the region was left.
            self._leave()
            raise

    def next(self, occupant: Occupant, items: Iterator[Any], end: object) -> Any:
        """Advance the author's iterator; `end` when there is nothing more."""
        try:
            try:
                self.occupant = occupant
                return next(items, end)
            finally:
                self.occupant = None
                if self._is_disputed:
                    self._leave()
        except Interrupted:
            self._leave()
            raise

    def _leave(self) -> None:
        with self._lock:
            self.occupant = None
            if self._is_disputed:
                self._is_disputed = False
                self._take_back()

    def _take_back(self) -> None:
        """Consume an exception that has not appeared yet.

        Clearing it with NULL would leave the interpreter believing that one is pending: CPython
        3.11 and 3.12 then take the slow way at every loop, and 3.11 hangs once a tracer is set. So
        it is thrown again, and appears here.
        """
        try:
            _thrower()(self.ident, Interrupted)
            for _ in range(1000):
                pass
        except Interrupted:
            pass

    def throw(self, occupant: Occupant, waited_s: float) -> bool:
        """Interrupt the thread if it is inside for `occupant` and stands at a harmless place.

        Only one thread may call this for one occupant.
        """
        ident = self.ident
        if ident == threading.get_ident():  # canceling itself; the watcher tries again
            return False
        with self._lock:
            was_disputed, self._is_disputed = self._is_disputed, True
            if self.occupant is occupant and not is_shielded(ident):
                frame = sys._current_frames().get(ident)
                at = -1 if frame is None else frame.f_lasti
                if (
                    frame is not None
                    and is_interruptible(
                        frame, at, waited_s, is_blocked=self._is_blocked(frame, at)
                    )
                    and _throw_at(ident, frame, at)
                ):
                    return True
            self._is_disputed = was_disputed
            return False

    def _is_blocked(self, frame: FrameType, at: int) -> bool:
        """Tell whether the thread is inside a C function, rather than waiting for the GIL.

        Each look means that the watcher got the GIL; a thread that waits for it too has an even
        chance to get it in between. One that computes nothing over 30 looks does not want it.
        """
        if not APPEARS_LATER or not hasattr(time, "pthread_getcpuclockid"):
            return False
        cpu_s = time.clock_gettime(time.pthread_getcpuclockid(self.ident))
        place = self._place
        is_same = (place.frame_id, place.at) == (id(frame), at)
        if is_same and cpu_s - place.cpu_s < _STILL_CPU_S:
            self._place = place._replace(looks=place.looks + 1)
        else:
            self._place = _Place(id(frame), at, 1, cpu_s)
        return self._place.looks > _BLOCKED_LOOKS

    def may_raise_in(self, frame: FrameType | None, waited_s: float) -> bool:
        """Tell whether a signal handler that interrupted `frame` here may raise `Interrupted`."""
        if self.occupant is None or frame is None or is_shielded(self.ident):
            return False
        return is_interruptible(frame, frame.f_lasti, waited_s)


BOUNDARIES.update({Region.call.__code__, Region.next.__code__})


class Pending:
    """One handler that has to stop, and then its answer."""

    __slots__ = ("due", "has_stopped", "is_resting", "look_at", "occupant", "region", "since")

    def __init__(self, region: Region, occupant: Occupant) -> None:
        self.region = region
        self.occupant = occupant
        self.since = self.due = self.look_at = time.monotonic()
        """When it was canceled, may be thrown at, and is looked at next."""
        self.has_stopped = False
        self.is_resting = False
        """Whether nobody is hurried for it until the next look."""
        SWITCH_INTERVAL.hold(self, _PENDING_SWITCH_S)

    def advance(self, now: float) -> bool:
        """Throw if it is time, and choose the next look; False when there is none."""
        if self.has_stopped:
            return False
        if self.occupant.region is not self.region:
            self.has_stopped = True
            self.look_at = now + _ANSWER_S
            SWITCH_INTERVAL.hold(self, _PENDING_SWITCH_S)
            return True
        if now >= self.due and self.region.throw(self.occupant, now - self.due):
            self.due = now + _AGAIN_S
        self._choose_look(now)
        return True

    def _choose_look(self, now: float) -> None:
        """Choose how hard the next look is prepared for: an old one only every other time."""
        self.is_resting = now - self.since > _OLD_S and not self.is_resting
        self.look_at = now + (_OLD_RETRY_S if self.is_resting else _RETRY_S)
        if self.is_resting:
            SWITCH_INTERVAL.release(self)
        else:
            is_late = now - self.due > _PRESSED_AFTER_S
            SWITCH_INTERVAL.hold(self, _PRESSED_SWITCH_S if is_late else _PENDING_SWITCH_S)


class Interrupter:
    """The watcher of one engine's threads."""

    def __init__(self) -> None:
        self.is_dormant = True
        """Whether long-running handlers go unnoticed until `wake`."""
        self._inbox: SimpleQueue[Pending | str] = SimpleQueue()
        self._pending: list[Pending] = []
        self._regions: tuple[Region, ...] = ()
        self._lock = threading.RLock()  # a signal handler may cancel in the thread that holds it
        self._thread: threading.Thread | None = None
        self._idle_ticks = 0
        self._next_tick = 0.0

    def interrupt(self, region: Region, occupant: Occupant) -> None:
        """Make the handler of `occupant` stop, now or as soon as it can be; from any thread."""
        pending = Pending(region, occupant)
        pending.advance(pending.since)
        self._post(pending)

    def watch(self, region: Region) -> None:
        """Shorten the switch interval whenever a handler in this region runs long."""
        with self._lock:
            self._regions = (*self._regions, region)

    def forget(self, region: Region) -> None:
        with self._lock:
            self._regions = tuple(known for known in self._regions if known is not region)

    def wake(self) -> None:
        """Begin to look for long-running handlers; ends by itself after a second without any."""
        self.is_dormant = False
        self._post("look")

    def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._inbox.put("close")
            thread.join()

    def _post(self, item: Pending | str) -> None:
        self._inbox.put(item)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="gen-worker-watcher", daemon=True
                    )
                    self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                item = self._inbox.get(timeout=self._wait_s())
            except Empty:
                item = "look"
            if item == "close":
                break
            if isinstance(item, Pending):
                self._pending.append(item)
            self._advance()
            self._tick()
        for pending in self._pending:
            SWITCH_INTERVAL.release(pending)
        SWITCH_INTERVAL.release(self)

    def _wait_s(self) -> float | None:
        looks = [pending.look_at for pending in self._pending]
        if not self.is_dormant:
            looks.append(self._next_tick)
        return max(0.0, min(looks) - time.monotonic()) if looks else None

    def _advance(self) -> None:
        now = time.monotonic()
        still: list[Pending] = []
        for pending in self._pending:
            if now < pending.look_at or pending.advance(now):
                still.append(pending)
            else:
                SWITCH_INTERVAL.release(pending)
        self._pending = still

    def _tick(self) -> None:
        now = time.monotonic()
        if self.is_dormant or now < self._next_tick:
            return
        self._next_tick = now + _TICK_S
        _thrower()
        busy, long = False, False
        for region in self._regions:
            occupant = region.occupant
            busy = busy or occupant is not None
            long = long or (occupant is not None and occupant is region.last_seen)
            region.last_seen = occupant
        if long:
            SWITCH_INTERVAL.hold(self, _LONG_SWITCH_S)
        else:
            SWITCH_INTERVAL.release(self)
        self._idle_ticks = 0 if busy else self._idle_ticks + 1
        self.is_dormant = self._idle_ticks > _IDLE_TICKS
