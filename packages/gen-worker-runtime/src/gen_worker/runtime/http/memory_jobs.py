"""Submitted requests in this process's memory.

A request that has ended is kept for a while, and only as many as there is room for.
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import OverloadedError
from gen_worker.events import Failed
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.jobs import NO_WISHES
from gen_worker.runtime.http.memory_job import MemoryJob

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.errors import Failure
    from gen_worker.runtime.engine import Invocation, Sink
    from gen_worker.runtime.http.backend import Handle
    from gen_worker.runtime.http.jobs import Wishes

    Submit = Callable[[Invocation, Sink], Handle]

__all__ = ["JobLimits", "MemoryJobs"]


class JobLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of submitted requests."""

    max_jobs: int = 1000
    """Of those that have ended the oldest is forgotten; when none has, one more is refused."""
    max_bytes: int = 256 * 1024 * 1024
    """Events of all requests that have ended."""
    max_job_bytes: int = 8 * 1024 * 1024
    """Events of one request. Beyond it those that all its readers have are forgotten; while there
    are none to forget, the request waits."""
    patience_s: float = 30.0
    """How long it waits so before it is canceled."""
    keep_s: float = 600.0
    """How long a request that has ended can be asked for."""


class MemoryJobs:
    """The requests of one process."""

    def __init__(
        self,
        submit: Submit,
        limits: JobLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[Failure], None] = lambda _failure: None,
    ) -> None:
        """Keep requests in memory.

        Args:
            submit: Starts a call.
            limits: How much is kept.
            clock: Seconds, of which ended requests are kept so many.
            report: Told on the loop of every request that failed, for the operator's log.
        """
        self._limits = limits or JobLimits()
        self._submit = submit
        self._clock = clock
        self._report = report
        self._jobs: dict[str, MemoryJob] = {}
        self._ended: dict[str, tuple[float, int]] = {}
        """When each job ended, in that order, and the bytes it keeps."""
        self._ended_bytes = 0
        self._last_end = -math.inf
        self._keys: dict[tuple[str | None, str], tuple[bytes, MemoryJob]] = {}
        """By owner and key."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def running(self) -> int:
        return len(self._jobs) - len(self._ended)

    @property
    def idle_s(self) -> float:
        return 0.0 if self.running else self._clock() - self._last_end

    async def submit(
        self,
        invocation: Invocation,
        *,
        key: str = "",
        body: bytes = b"",
        wishes: Wishes = NO_WISHES,
    ) -> MemoryJob:
        if wishes.webhook is not None:
            raise Refusal(400, "no_webhooks", "this host sends no webhooks: a scheduler does")
        self._forget_old(room_for=1)
        digest, mine = b"", (invocation.owner, key)
        if key:
            digest = hashlib.sha256(b"%b\0%b" % (invocation.function.encode(), body)).digest()
            known = self._keys.get(mine)
            if known is not None and not known[1].may_be_tried_again:
                return _same(known, digest)
        if invocation.request_id in self._jobs:
            raise Refusal(
                409,
                "duplicate_request_id",
                f"there is a request {invocation.request_id!r} already: give each its own id",
            )
        if len(self._jobs) >= self._limits.max_jobs:
            raise OverloadedError("too many requests are kept here", retry_after_s=5.0)
        job = MemoryJob(invocation, key, self._limits, self._note_end)
        job.handle = self._submit(invocation, job)
        self._jobs[job.request_id] = job
        if key:
            self._keys[mine] = (digest, job)
        return job

    async def find(self, request_id: str) -> MemoryJob | None:
        self._forget_old()
        return self._jobs.get(request_id)

    def _note_end(self, job: MemoryJob) -> None:
        if isinstance(job.outcome, Failed):
            self._report(job.outcome.failure)
        self._last_end = self._clock()
        self._ended[job.request_id] = (self._last_end, job.size_bytes)
        self._ended_bytes += job.size_bytes
        self._forget_old()

    def _forget_old(self, room_for: int = 0) -> None:
        """Forget what ended long ago, and what there is no room for; never what somebody reads."""
        limits, now = self._limits, self._clock()
        for request_id, (ended_at, size_bytes) in list(self._ended.items()):
            is_old = now - ended_at >= limits.keep_s
            is_full = len(self._jobs) + room_for > limits.max_jobs
            if not (is_old or is_full or self._ended_bytes > limits.max_bytes):
                return
            job = self._jobs[request_id]
            if not job.readers:
                self._ended_bytes -= size_bytes
                del self._jobs[request_id], self._ended[request_id]
                if self._keys.get((job.owner, job.key), (b"", None))[1] is job:
                    del self._keys[job.owner, job.key]


def _same(known: tuple[bytes, MemoryJob], digest: bytes) -> MemoryJob:
    if known[0] != digest:
        raise Refusal(
            409,
            "idempotency_conflict",
            "the Idempotency-Key belongs to another request: give each request its own key",
            request_id=known[1].request_id,
        )
    return known[1]
