"""Requests of which nothing is heard though their worker is there: their attempts end here."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.scheduler.dispatcher.core import Core
    from gen_worker.runtime.scheduler.dispatcher.ports import Functions
    from gen_worker.runtime.scheduler.fleet.job import Job

__all__ = ["Mutes"]

_log = logging.getLogger("gen_worker.scheduler.dispatcher")


class Mutes:
    """Looks at all that workers have, every few seconds. On the loop."""

    def __init__(self, core: Core, functions: Functions, lose: Callable[[Job], None]) -> None:
        """Prepare; `start` begins.

        Args:
            core: Who has what.
            functions: Say how long a call may take.
            lose: Ends an attempt as that of a worker that was lost.
        """
        self._core = core
        self._functions = functions
        self._lose = lose

    def start(self) -> None:
        """Look from now on, until the core is closed."""
        options = self._core.options
        if options.mute_grace_s or options.mute_after_s:
            self._core.later(options.mute_look_s, self._look)

    def _look(self) -> None:
        now = self._core.clock()
        for job in [one for one in self._core.given.values() if self._is_mute(one, now)]:
            said = f"{now - job.heard_at:.0f} s"
            _log.warning("%r: nothing was heard of it for %s, it counts as lost", job, said)
            self._lose(job)
        self._core.later(self._core.options.mute_look_s, self._look)

    def _is_mute(self, job: Job, now: float) -> bool:
        """Tell whether a worker that is there should have said something long ago.

        One that has gone, a result without its stream, and a request that is being canceled have
        others who wait for them.
        """
        if not job.is_sent or job.is_over or job.is_interrupted or job.result is not None:
            return False
        if not job.member.is_connected or job.live.is_over or job.live.is_canceling:
            return False
        limit_s = self._limit_s(job)
        return limit_s > 0 and now > max(job.heard_at, job.ends_at) + limit_s

    def _limit_s(self, job: Job) -> float:
        """Return how long nothing may be heard of a request; 0 is for ever."""
        record, owner = job.live.record, job.live.options.endpoint_owner
        facts = job.facts or self._functions.known(
            owner, record.endpoint, record.release_id, record.function
        )
        options = self._core.options
        if facts is None or not facts.timeout_ms:
            return options.mute_after_s
        grace_s = options.mute_grace_s
        return facts.timeout_ms / 1000 + grace_s if grace_s else 0.0
