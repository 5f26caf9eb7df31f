"""Says that a run is alive, and where it hangs if it does not go on."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.loop.parts import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.trainer.loop.running import Run

__all__ = ["Heartbeat", "place_of", "stack_of"]

_log = logging.getLogger("gen_worker.trainer")


class Heartbeat(Part):
    """A thread that writes `heartbeat` events, and one `log` event for each stall.

    Each step and each batch of an evaluation is to end in time. A sample, a checkpoint and the
    publishing take as long as they take.
    """

    def __init__(
        self,
        every_s: float,
        stall_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            every_s: Between two events; 0 writes none.
            stall_s: After which a run that ends neither a step nor a batch of an evaluation, and
                reports nothing, is said to be stalled; 0 never does.
            clock: Seconds that only ever grow.
        """
        self._every_s = every_s
        self._stall_s = stall_s
        self._clock = clock
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None
        self._moved_at = 0.0

    def begin(self, run: Run) -> None:
        reporter = run.reporting.reporter
        beat, log = (getattr(reporter, name, None) for name in ("heartbeat", "log"))
        if not callable(beat) or not callable(log):
            return  # nobody listens
        self._moved()
        trained_by = threading.get_ident()
        self._thread = threading.Thread(
            target=self._watch,
            args=(run, trained_by, beat, log),
            name="gen-worker-heartbeat",
            daemon=True,
        )
        self._thread.start()

    def before_step(self, run: Run) -> None:
        self._moved()

    def after_step(self, run: Run) -> None:
        self._moved()

    def reported(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._moved()

    def checkpointed(self, path: str, step: int) -> None:
        self._moved()

    def sampled(self, path: str, step: int) -> None:
        self._moved()

    def end(self, run: Run, error: BaseException | None) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def moved(self, run: Run) -> None:
        self._moved()

    def moved_at(self, run: Run) -> float:
        """Return when the run went on for the last time, by the clock; now, where it may rest."""
        if run.is_taking_time:
            self._moved()
        return self._moved_at

    def _moved(self) -> None:
        self._moved_at = self._clock()

    def _watch(
        self, run: Run, trained_by: int, beat: Callable[..., Any], log: Callable[..., Any]
    ) -> None:
        beat_at = self._clock() + self._every_s if self._every_s > 0 else math.inf
        told_of = -1.0  # when a run had last moved that is said to be stalled
        while True:
            stall_at = math.inf
            if self._stall_s > 0:
                since = self._clock() if told_of == self._moved_at else self._moved_at
                stall_at = since + self._stall_s
            if self._is_over.wait(max(0.0, min(beat_at, stall_at) - self._clock())):
                return
            now = self._clock()
            if now >= beat_at:
                beat(step=run.step)
                beat_at = now + self._every_s
            moved_at = self.moved_at(run)
            if 0 < self._stall_s <= now - moved_at and told_of != moved_at:
                told_of = moved_at
                self._say(run, trained_by, now - moved_at, log)

    def _say(self, run: Run, trained_by: int, quiet_s: float, log: Callable[..., Any]) -> None:
        where = place_of(trained_by)
        message = f"stalled: nothing has happened for {quiet_s:.0f} s, the run is at {where}"
        _log.warning("%s\n%s", message, stack_of(trained_by))
        log(level="warning", message=message, step=run.step, where=where)


def place_of(thread_id: int) -> str:
    """Return the line of code that a thread is on, as `file:line in function`."""
    frame = sys._current_frames().get(thread_id)
    if frame is None:
        return "an end: the thread is over"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def stack_of(thread_id: int) -> str:
    """Return the lines of code that have led a thread to where it is."""
    frame = sys._current_frames().get(thread_id)
    return "" if frame is None else "".join(traceback.format_stack(frame))
