"""How a worker leaves: drained on command, or stopped by a signal; nothing it owes is lost."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.runtime.engine.deadlines import Timers
from gen_worker.runtime.wire import DrainResult
from gen_worker.runtime.worker.reporting import tell

if TYPE_CHECKING:
    from gen_worker.runtime.engine import Clock, Engine
    from gen_worker.runtime.wire import Drain
    from gen_worker.runtime.worker.jobs import Jobs
    from gen_worker.runtime.worker.link import Link

__all__ = ["Leaving", "LeavingTimes"]

_log = logging.getLogger("gen_worker.worker")


class LeavingTimes(NamedTuple):
    """Seconds."""

    drain_s: float = 0.0
    """That jobs may still take when nobody says how long."""
    grace_s: float = 10.0
    """That handlers may take to stop once they are canceled, and `shutdown` hooks to end."""
    flush_s: float = 5.0
    """That results may take to be written."""


class Leaving:
    """Ends a worker in order, once. For the loop's thread."""

    def __init__(
        self, engine: Engine, jobs: Jobs, link: Link, times: LeavingTimes, clock: Clock
    ) -> None:
        """Prepare to leave some day.

        Args:
            engine: Runs the jobs; it is closed.
            jobs: Those under way; no others are taken in.
            link: Left when everything is written.
            times: How long each step may take.
            clock: For deadlines.
        """
        self._engine = engine
        self._jobs = jobs
        self._link = link
        self._times = times
        self._clock = clock
        self._timers = Timers(clock)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ends_at = 0.0
        self._terminates = False
        self._reason = ""

    @property
    def has_begun(self) -> bool:
        return self._task is not None

    def drain(self, command: Drain) -> None:
        """Finish what is under way, answer, and end. Said again it may change the deadline."""
        self._reason = command.reason
        self._terminates = command.terminate_after_deadline
        self._end_in(
            command.deadline_unix_ms / 1000 - self._clock.time()
            if command.deadline_unix_ms
            else self._times.drain_s
        )
        self._jobs.stop_admitting()
        self._report("draining")
        if self._task is None:
            self._task = self._loop.create_task(self._drain())

    def stop(self, reason: str, worker_id: str) -> None:
        """End because the machine wants it; a second time without waiting for jobs."""
        tell(
            self._link.outbox,
            "worker.draining",
            {
                "worker_id": worker_id,
                "in_flight_request_ids": list(self._jobs.active),
                "reason": reason,
            },
        )
        self._end_in(0.0 if self.has_begun else self._times.drain_s)
        self._terminates = True
        self._jobs.stop_admitting()
        if self._task is None:
            self._task = self._loop.create_task(self._stop())

    async def finish(self) -> None:
        """Wait for an end that has begun, and close what is left."""
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._engine.close(self._times.grace_s)
        self._timers.close()

    async def _drain(self) -> None:
        is_drained = await self._wait_idle()
        if not is_drained and not self._terminates:
            self._report("deadline_exceeded")
            await self._wait_idle(until_done=True)
            is_drained = not self._jobs.active
        await self._engine.close(self._times.grace_s)
        self._report("drained" if is_drained else "deadline_exceeded")
        await self._leave()

    async def _stop(self) -> None:
        await self._wait_idle()
        await self._engine.close(self._times.grace_s)
        await self._leave()

    async def _leave(self) -> None:
        # Nobody to write to: what is owed waits for a connection, telemetry does not.
        waits = self._link.outbox.statistics()
        is_owed = waits.results or waits.deltas or self._link.is_connected
        await self._link.leave(self._times.flush_s if is_owed else 0.0)

    async def _wait_idle(self, *, until_done: bool = False) -> bool:
        """Wait until no job is under way, or the deadline; tell whether none is."""
        idle = asyncio.ensure_future(self._jobs.wait_idle())
        try:
            while not idle.done():
                is_over = self._clock.now() >= self._ends_at
                if is_over and (not until_done or self._terminates):
                    break
                self._changed.clear()
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait([idle, changed], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            idle.cancel()
        return not self._jobs.active

    def _end_in(self, seconds: float) -> None:
        """Have a deadline, in place of any other."""
        self._ends_at = self._clock.now() + seconds
        self._timers.add(max(0.0, seconds), self._ring)
        self._changed.set()

    def _ring(self) -> None:
        self._loop.call_soon_threadsafe(self._changed.set)

    def _report(self, status: str) -> None:
        """Tell the orchestrator how draining goes."""
        active = len(self._jobs.active)
        _log.info("draining for %r: %s, %d requests under way", self._reason, status, active)
        self._link.outbox.control(
            DrainResult(
                reason=self._reason,
                status=status,
                active_requests=active,
                emitted_at_unix_ms=int(self._clock.time() * 1000),
            )
        )
        payload = {"reason": self._reason, "status": status, "active_requests": active}
        tell(self._link.outbox, "worker.drain.status", payload)
